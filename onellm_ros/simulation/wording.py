"""The words of the simulated world's language: phrases, question wordings, caption sentences.

Owns every template. ``WORDINGS`` maps a question family to (training wordings, held-out wordings);
held-out wordings are never said in training. Slots in braces are filled by the language module.
"""

from __future__ import annotations

NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
PLURALS = {'shelf': 'shelves', 'box': 'boxes', 'person': 'people'}
UNKNOWN = 'unknown'

PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    'left': ('on the left', 'on the left side', 'at the left'),
    'ahead': ('straight ahead', 'ahead', 'in front'),
    'right': ('on the right', 'on the right side', 'at the right')}
NEAR_PHRASES = ('nearby', 'close by')
FAR_PHRASES = ('far away', 'far off')

SOUND_SYNONYMS: dict[str, tuple[str, ...]] = {
    'silence': ('nothing', 'it is quiet', 'quiet', 'no sound'),
    'beeping': ('a beep', 'beeps'), 'an alarm': ('alarm', 'a siren'), 'a bell': ('bell ringing',),
    'knocking': ('a knock', 'someone knocking'), 'music': ('a melody',),
    'a motor': ('an engine', 'a motor running'), 'running water': ('water', 'flowing water'),
    'footsteps': ('steps', 'someone walking'), 'barking': ('a dog', 'a dog barking'),
    'whistling': ('a whistle', 'someone whistling'), 'clapping': ('applause', 'someone clapping')}

CAPTION_PROMPTS: tuple[str, ...] = (
    'Describe what you sense.', 'What do you sense?', 'Describe the situation.',
    'Tell me what is going on.', 'What is happening around you?', 'Describe your surroundings.',
    'Give a short description.', 'Report what you perceive.', 'What do you notice?',
    'Say in a sentence or two what you perceive.', 'Provide a short caption.',
    'Describe what the sensors show.')
CAPTION_PROMPTS_HELD_OUT: tuple[str, ...] = (
    'Put what your sensors tell you into words.', 'Summarise what you perceive.')

_SEE = ('Can you see {np}?', 'Is there {np}?', 'Is there {np} in view?', 'Do you see {np}?',
        'Is {np} visible?', 'Does the scene contain {np}?')

WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    'object.largest': (
        ('What is the largest thing you see?', 'What fills most of the view?',
         'What is the main object?', 'What is the biggest object in view?',
         'Name the most prominent object.', 'What takes up the most space in view?',
         'What do you mainly see?'),
        ('Which object dominates the scene?', 'Name the biggest thing.')),
    'object.nearest': (
        ('What is the nearest object?', 'What is closest to you?', 'Which object is nearest?',
         'Name the closest object.', 'What thing is nearest to the robot?'),
        ('What stands closest?', 'Name the nearest thing.')),
    'object.place': (
        ('What is {place}?', 'What do you see {place}?', 'What object is {place}?',
         'Name the object {place}.', 'Which object is {place}?', 'What stands {place}?'),
        ('Tell me what is {place}.', 'What can be seen {place}?')),
    'colour': (
        ('What colour is {the}?', 'Which colour does {the} have?', 'Name the colour of {the}.',
         'What is the colour of {the}?', 'Tell me the colour of {the}.',
         '{The} is of what colour?'),
        ('In which colour is {the}?', 'Of what colour is {the}?')),
    'colour.is': (
        ('Is {the} {colour}?', 'Does {the} look {colour}?', 'Is the colour of {the} {colour}?',
         'Would you call {the} {colour}?'),
        ('Would {colour} be the colour of {the}?', 'Is {colour} how {the} looks?')),
    'count.kind': (
        ('How many {plural} can you see?', 'How many {plural} are there?', 'Count the {plural}.',
         'What is the number of {plural}?', 'How many {plural} do you see?',
         'How many {plural} are in view?'),
        ('Give the number of {plural}.', 'How many {plural} are visible?')),
    'count.colour': (
        ('How many {colour} things can you see?', 'How many {colour} objects are there?',
         'Count the {colour} objects.', 'How many objects are {colour}?'),
        ('Give the number of {colour} things.', 'How many {colour} items are visible?')),
    'count.all': (
        ('How many objects can you see?', 'How many things are there?', 'Count the objects.',
         'How many objects are in view?'),
        ('Give the number of objects.', 'How many items are visible?')),
    'presence': (_SEE, ('Would you say there is {np}?', 'Is {np} somewhere in view?')),
    'presence.colour': (
        ('Is there anything {colour}?', 'Do you see something {colour}?',
         'Is something {colour}?', 'Is there a {colour} thing in view?'),
        ('Would you say there is anything {colour}?', 'Is some object {colour}?')),
    'presence.place': (
        ('Is there anything {place}?', 'Do you see something {place}?',
         'Does anything stand {place}?', 'Is an object {place}?'),
        ('Would you say there is anything {place}?', 'Is some object {place}?')),
    'place': (
        ('Where is {the}?', 'On which side is {the}?', 'In which direction is {the}?',
         'Where do you see {the}?', 'Is {the} left, ahead or right?',
         'Tell me where {the} is.'),
        ('Whereabouts is {the}?', 'Which way is {the} from here?')),
    'place.is': (
        ('Is {the} {place}?', 'Do you see {the} {place}?', 'Does {the} stand {place}?',
         'Would I find {the} {place}?'),
        ('Would you say {the} is {place}?', 'Is it {place} that {the} stands?')),
    'range': (
        ('Is {the} near or far?', 'Is {the} far or near?', 'Near or far: where is {the}?',
         'Would you call {the} near or far?', 'Is {the} close, or is it far?',
         'Tell me whether {the} is near or far.'),
        ('Do you see {the} near or far away?', 'Is it near or far to {the}?')),
    'relation.side': (
        ('Is {the} {side} of {other}?', 'Do you see {the} {side} of {other}?',
         'Does {the} stand {side} of {other}?', 'Is {the} further {side} than {other}?'),
        ('Would you find {the} {side} of {other}?', 'Is {the} to the {side} of {other}?')),
    'relation.nearer': (
        ('Which is nearer, {the} or {other}?', 'What is closer, {the} or {other}?',
         'Is {the} or {other} nearer?', 'Which one is closer: {the} or {other}?'),
        ('Of {the} and {other}, which is nearer?', 'Is {the} or {other} the closer one?')),
    'floor': (
        ('What is the floor made of?', 'What kind of floor is it?', 'Which floor do you see?',
         'What floor is the robot on?', 'Name the floor.', 'What does the floor consist of?'),
        ('Which material is the floor?', 'What covers the ground?')),
    'floor.is': (
        ('Is the floor {floor}?', 'Is the floor made of {floor}?', 'Do you see a {floor} floor?',
         'Is it a {floor} floor?'),
        ('Would you say the floor is {floor}?', 'Does the floor consist of {floor}?')),
    'distance': (
        ('How far away is {the}?', 'What is the distance to {the}?', 'How far is it to {the}?',
         'How many metres away is {the}?', 'Give the distance to {the}.', 'How distant is {the}?'),
        ('At what distance is {the}?', 'Tell me how far {the} is.')),
    'clear.way': (
        ('Is the way ahead free?', 'Can the robot drive straight on?', 'Is the path ahead clear?',
         'Is there room to drive ahead?', 'Is it free straight ahead?',
         'Could the robot drive a metre ahead?'),
        ('Is the way in front open?', 'Could you go straight on?')),
    'clear.space': (
        ('How much free space is ahead?', 'How far can the robot drive straight on?',
         'How many metres are free ahead?', 'How far is the way ahead free?',
         'What is the free distance ahead?', 'How much room is there straight ahead?'),
        ('For how many metres is the path clear?', 'Up to what distance is it free ahead?')),
    'place.nearest': (
        ('Where is the nearest thing?', 'On which side is the nearest object?',
         'Where is the closest object?', 'In which direction is the nearest thing?',
         'Where is the object nearest to the robot?', 'Which side holds the closest thing?'),
        ('Which way is the closest thing?', 'Whereabouts is the nearest object?')),
    'motion.what': (
        ('What is the robot doing?', 'How is the robot moving?', "Describe the robot's motion.",
         'What motion do you feel?', 'What happens to the robot?', 'What are you doing?'),
        ('Name the motion of the robot.', 'What movement is going on?')),
    'motion.is': (
        ('Is the robot {doing}?', 'Is it {doing}?', 'Would you say the robot is {doing}?',
         'Are you {doing}?', 'Do you feel that the robot is {doing}?',
         'Can it be that the robot is {doing}?'),
        ('Does it feel as if the robot is {doing}?', 'Do you think the robot is {doing}?')),
    'sound.what': (
        ('What do you hear?', 'What can you hear?', 'What sound is there?', 'Which sound is it?',
         'Name the sound.', 'What is heard?', 'What does the microphone pick up?'),
        ('What noise is it?', 'Tell me what you hear.')),
    'sound.is': (
        ('Do you hear {sound}?', 'Can you hear {sound}?', 'Is {sound} heard?',
         'Does it sound like {sound}?', 'Is that {sound}?', 'Is {sound} audible?'),
        ('Is the sound {sound}?', 'Would you say you hear {sound}?')),
    'sound.quiet': (
        ('Is it quiet?', 'Is there silence?', 'Is it silent?', 'Do you hear nothing?'),
        ('Is everything quiet?', 'Is no sound to be heard?')),
    'moving.what': (
        ('What is moving?', 'Which thing moves?', 'What moves in the video?',
         'Which object is moving?', 'Name what moves.', 'What do you see moving?'),
        ('Tell me what is in motion.', 'Which thing is on the move?')),
    'moving.way': (
        ('Which way is {the} going?', 'Where is {the} moving?', 'Where does {the} go?',
         'Which direction is {the} moving in?', 'Where is {the} heading?',
         'How does {the} move?'),
        ('Which way does {the} head?', 'Tell me where {the} goes.')),
    'moving.any': (
        ('Is anything moving?', 'Does anything move?', 'Is something in motion?',
         'Do you see anything moving?', 'Is there any movement?', 'Does something move?'),
        ('Is any object on the move?', 'Can you see movement?')),
    'mixed.see_hear': (
        ('What do you see and hear?', 'What is the main object, and what do you hear?',
         'Name the largest thing and the sound.', 'What is seen and what is heard?',
         'Tell me the main thing you see and what you hear.', 'Which object and which sound?'),
        ('What meets eye and ear?', 'Name the main sight and sound.')),
    'mixed.see_move': (
        ('What do you see, and what is the robot doing?', 'Name the main object and the motion.',
         'What is the largest thing, and how does the robot move?',
         'Which object and which motion?'),
        ('What is in view and what is the robot up to?', 'Name the main sight and the motion.')),
    'mixed.move_hear': (
        ('What is the robot doing, and what do you hear?', 'Name the motion and the sound.',
         'How does the robot move, and what is heard?', 'Which motion and which sound?'),
        ('What goes on and what is to be heard?', 'Name the movement and the noise.'))}

LIST_SENTENCES: tuple[str, ...] = (
    'There {be} {list}.', 'I see {list}.', 'The robot sees {list}.', '{List} can be seen.',
    'In view {be} {list}.', 'The scene shows {list}.')
EMPTY_SENTENCES = ('No object stands out.', 'I see no clear object.', 'The view shows no object.')
MOTION_SENTENCES = ('The robot is {motion}.', 'I am {motion}.', 'The base is {motion}.',
                    'It feels like {motion}.')
SOUND_SENTENCES = ('{Sound} {be} heard.', 'I hear {sound}.', '{Sound} can be heard.',
                   'The microphone picks up {sound}.')
QUIET_SENTENCES = ('It is quiet.', 'Nothing is heard.', 'There is silence.')
FREE_SENTENCES = ('The way ahead is free for {metres}.', 'Free space ahead: {metres}.',
                  'The path is clear for {metres}.')
BLOCKED_SENTENCES = ('The way ahead is blocked.', 'The path is blocked.')
MOVER_SENTENCES = ('{The} is moving {way}.', '{The} moves {way}.', '{The} is going {way}.')
STILL_SENTENCES = ('Nothing is moving.', 'Nothing moves.')


def plural(kind: str) -> str:
    """Return the plural of a kind ('shelves')."""
    return PLURALS.get(kind, kind + 's')


def article(noun: str) -> str:
    """Return ``noun`` with its indefinite article."""
    return ('an ' if noun[0] in 'aeiou' else 'a ') + noun


def noun(kind: str, colour: str = '', number: int = 1) -> str:
    """Return the noun phrase without article: 'red ball', 'two'-less 'people in red'."""
    word = kind if number == 1 else plural(kind)
    if not colour:
        return word
    return f'{word} in {colour}' if kind == 'person' else f'{colour} {word}'


def indefinite(kind: str, colour: str = '', number: int = 1) -> str:
    """Return 'a red ball', 'an orange box', 'two people in red'."""
    phrase = noun(kind, colour, number)
    return article(phrase) if number == 1 else f'{NUMBERS[number]} {phrase}'


def definite(kind: str, colour: str = '') -> str:
    """Return 'the red ball'; a robot in view without a colour is 'the other robot'."""
    return 'the other robot' if kind == 'robot' and not colour else f'the {noun(kind, colour)}'


def metres(number: int) -> str:
    """Return 'about 2 metres'."""
    return f'about {number} metre' + ('' if number == 1 else 's')


def sentence_case(text: str) -> str:
    """Return ``text`` with its first letter in upper case."""
    return text[:1].upper() + text[1:]
