"""Patterns of what people say who have not read the list of wordings.

``VARIED`` maps a question family to patterns: ``[a|b|]`` stands for one of its alternatives,
braces for the slots of the language module. Owns these, the prompts and the other names of
things; how they are said is ``varied``'s.
"""

from __future__ import annotations

_NAME = '[Name|Say|Tell me|Give me|State|Identify]'
_SEE = '[see|notice|spot|make out|recognise|perceive|observe|detect|find]'
_THING = '[thing|object|item]'
_BIGGEST = '[largest|biggest|most prominent|most noticeable|most dominant|main|bulkiest]'
_NEAREST = '[nearest|closest]'
_YOU = '[you|the robot]'
_KNOW = ('[Do you know|Can you tell me|Could you tell me|Tell me|Can you say|Let me know|'
         "I'd like to know|I want to know|Any idea|Please say]")
_WHERE = '[where|in which direction|on which side|on what side|which way]'
_AHEAD = '[ahead|in front|in front of you|in front of the robot|straight on|forward|forwards]'
_FREE = '[free|clear|open|unobstructed|passable|safe|not blocked]'
_HOW_FAR = ('[how far away|how far off|how far|how distant|how many metres away|'
            'how many metres off]')
_WAY = '[Which way|Where|In which direction|In what direction|To which side|Where to]'

VARIED: dict[str, tuple[str, ...]] = {
    'object.largest': (
        f'[What|Which {_THING}] is the {_BIGGEST} [one|thing|object|item|thing here|object here]?',
        f'{_NAME} the {_BIGGEST} {_THING}[| in view| in the scene| in sight| that you see].',
        f'What {_BIGGEST} {_THING} [do|can] you {_SEE}?',
        f'{_KNOW} [what|which {_THING}] is [largest|biggest]',
        '[What|Which thing] [occupies|covers|takes|fills|dominates] [most of|the larger part of|'
        'much of] the [view|picture|image|scene]?',
        'What is mainly [in view|visible|there|shown|to be seen|in the picture]?',
        'What [catches|strikes] your eye?', 'What stands out [most|here|in the picture|]?',
        f'Of all you {_SEE}, what is biggest?', 'What does the [picture|camera|image] [mainly|'
        'mostly] show?', f'What [|is it that] you {_SEE} [first|most]?', 'What is that?',
        'What is this?', 'What [object|thing] is it?', 'What am I looking at?',
        'What are you looking at?', 'Which [object|thing] is in view?',
        'What is the [largest|biggest|main] one?', 'Biggest [thing|object]?'),
    'object.nearest': (
        f'[What|Which {_THING}] is {_NEAREST}[| to {_YOU}| to the camera| of all]?',
        f'{_NAME} the {_THING} {_NEAREST} to {_YOU}.',
        f'{_NAME} [what|which {_THING}] is {_NEAREST}.',
        f'What is the {_NEAREST} {_THING}[| here| in view| in sight|, please]?',
        f'{_KNOW} what is {_NEAREST}', f'What [would|will] {_YOU} [hit|reach|touch|meet] first?',
        f'[What|Which {_THING}] has the [smallest|shortest|least] distance?',
        '[What|Which thing|Which object] stands [nearest|nearest to you|right before you]?',
        f'What {_THING} [lies|is] [not far|nearest|least far away]?', 'Nearest [object|thing]?'),
    'object.place': (
        '[What|Which object|Which thing] [is there|is located|can you find|do you notice|lies|'
        'stands|is to be seen|is visible|do you spot|is] {place}?',
        f'{_NAME} [what is|the {_THING}|the {_THING} that is] {{place}}.',
        f'{_KNOW} what [is|there is|stands] {{place}}', 'And {place}?',
        'What have you got {place}?', 'Anything {place}, and what?',
        'Look {place}: what is there?',
        '{place}, what do you see?', '{place}: what is it?'),
    'colour': (
        '[What|Which] [colour|color] [is|has] {the}?', '{The} is [what|which] [colour|color]?',
        f'{_NAME} the [colour|color] of {{the}}.',
        f'{_KNOW} [what|which] [colour|color] {{the}} [is|has]',
        "[What's|What is] the [colour|color] of {the}[| you see| in view| there]?",
        'How is {the} [coloured|colored|painted]?', 'What does {the} look like, which colour?',
        '[Colour|Color] of {the}?', 'Is {the} red, blue or [which|what] [colour|color]?',
        'In what [colour|color] [is|appears|do you see] {the}?', 'Which hue [has|is] {the}?',
        'What [colour|color] would you say {the} is?', '{The}: which [colour|color]?'),
    'colour.is': (
        'Is {the} {colour}?', 'Is the [colour|color] of {the} {colour}?', 'Is {the} {colour} [or'
        ' not|in your view|by any chance]?', '{The} is {colour}, [right|is it not|correct|yes]?',
        'Does {the} [look|appear|seem] {colour}?', 'Would you call {the} {colour}?',
        f'{_KNOW} [whether|if] {{the}} is {{colour}}', 'Do you see {the} in {colour}?'),
    'count.kind': (
        'How many {plural} [are here|are visible here|do you notice|do you count|can be seen|'
        'are in sight|are there in the picture|are in the scene|have you got|stand here|exist]?',
        '[Count|Number] {plural}, please.', f'{_KNOW} how many {{plural}} [there are|you see]',
        '[What is the|The] [count|amount|number|total] of {plural}[| in view| you see]?',
        f'{_NAME} [how many {{plural}} there are|the number of {{plural}} in view].',
        '{plural}: how many?', 'Can you count [all|] the {plural}?',
        'How large is the number of {plural}?', 'In total, how many {plural}?'),
    'count.colour': (
        'How many {colour} [objects|things|items] [are here|do you notice|do you count|'
        'can be seen|are in sight|do you see|have you got|exist]?',
        'How many [things|objects|items] [are|look|appear] {colour}?',
        f'{_KNOW} how many {{colour}} [things|objects] there are',
        '[What is the|The] [count|number] of {colour} [objects|things|items]?',
        'How many of the [objects|things] are {colour}?',
        '[Things|Objects] in {colour}: how many?', 'How often do you see {colour}?'),
    'count.all': (
        'How many [objects|things|items] [are here|do you notice|do you count|can be seen|'
        'are in sight|do you see|have you got|are there in all|are there altogether]?',
        '[What is the|The] [count|number|total number] of [objects|things|items]?',
        f'{_KNOW} how many [objects|things] [there are|you see]',
        '[Count|Number] [everything|all things|all objects] [you see|in view|].',
        'How many [things|objects] in [all|total]?'),
    'presence': (
        f'[Do you|Can you] {_SEE} {{np}}[| anywhere| here| in front of you| at all]?',
        'Is there {np} [here|somewhere|around|in front of you|in the room|in the picture|'
        'in the scene|nearby you|at all|in sight]?', 'Is {np} [here|there|around|in sight|'
        'in the picture|present|part of the scene|to be seen|shown]?',
        f'{_KNOW} [whether|if] [there is|you see] {{np}}', 'Any sign of {np}?',
        'Does the [picture|camera|image|view] [show|contain|hold|include] {np}?',
        'Have you [seen|spotted|found|noticed|detected] {np}?', '{np}: is there one?',
        'There is {np}, [right|is there not|correct]?', 'Did you [see|notice|find] {np}?',
        'I am looking for {np}. [Is it here|Do you see it|Is there one]?',
        'Could that be {np}?', 'Is {np} among the [things|objects] you see?'),
    'presence.colour': (
        '[Is there|Do you see|Can you see|Do you notice] [anything|something] {colour}[| here]?',
        'Is [anything|something] {colour}?', 'Is there [any|a] {colour} [thing|object|item]?',
        f'{_KNOW} [whether|if] [anything|something] is {{colour}}',
        'Does the [scene|view|picture] [show|hold|contain] [anything|something] {colour}?',
        '[Any|Anything] {colour} [objects|things] in view?'),
    'presence.place': (
        '[Is there|Do you see|Can you see|Is] [anything|something|an object|any object] {place}?',
        'Does [anything|something] [stand|lie] {place}?', 'Is [nothing|it empty] {place}, or '
        'something?', f'{_KNOW} [whether|if] [anything|something] is {{place}}',
        'Any [object|thing] {place}?', '{place}, is there anything?'),
    'place': (
        '[Where|Where exactly|Where about] [is|stands|do you find|can I find|do you notice] '
        '{the}?',
        '[On|To|At] [which|what] side [is|do you see|stands|lies] {the}?',
        'In [which|what] direction [do you see|stands|can I find|lies|is] {the}?',
        f'{_KNOW} {_WHERE} {{the}} is', 'Which way [is|to|leads to] {the}?',
        '[Is|Do you see|Find] {the} on the left, ahead or on the right?',
        '[Is|Do you see] {the} [to|on] the left or [to|on] the right?',
        '{The} is where?', '{The}: where?',
        f'{_NAME} [the direction|the side|the place] of {{the}}.',
        '[Point|Direct] me to {the}.', 'Show me the way to {the}.', 'Locate {the}.',
        'What is the [direction|position|location|bearing] of {the}?',
        'Whereabouts [do you see|can you find] {the}?', 'Where should I look for {the}?',
        'Which side of the [view|picture|image] [is {the} on|shows {the}]?',
        'Where in the [view|picture|scene] is {the}?', 'Where has {the} been placed?',
        'Which direction is {the} in[|, seen from here|, from here|, from your side]?'),
    'place.is': (
        'Is {the} {place}?', '[Do you|Can you] see {the} {place}?', 'Does {the} stand {place}?',
        '{The} is {place}, [right|is it not|correct|yes]?', 'Would I find {the} {place}?',
        f'{_KNOW} [whether|if] {{the}} is {{place}}', 'Is it {place} that you see {the}?'),
    'range': (
        'Is {the} [close by or far away|nearby or far off|close or far|near or distant|'
        'close or distant|near you or far from you]?',
        '[How far|Near or far|Close or far] is {the}, near or far?', '{The}: near or far?',
        f'{_KNOW} [whether|if] {{the}} is [near or far|close or far away]',
        'Do you [see|find|have] {the} [close by|nearby|near by] or far away?',
        'Is it [near|close] or far to {the}?', 'Does {the} stand near or far[| away| off]?',
        'Is {the} within two metres[|, near,] or far?', 'Is {the} [near|close] at hand or far?'),
    'relation.side': (
        '[Is|Stands|Lies] {the} [on the|to the] {side} [side|] of {other}?',
        'Is {the} more to the {side} than {other}?', 'Is {the} {side} from {other}?',
        'Do you [see|find|notice] {the} [on the|to the] {side} of {other}?',
        f'{_KNOW} [whether|if] {{the}} is {{side}} of {{other}}',
        'Does {the} [appear|lie|come] further to the {side} than {other}?',
        '{The} is {side} of {other}, [right|correct|is it not]?',
        'Compared to {other}, is {the} further {side}?',
        'Looking from here, is {the} {side} of {other}?'),
    'relation.nearer': (
        '[Which|What|Which thing] is [closer|nearer|less far away][| to you| to the robot]: {the} '
        'or {other}?', '[Which|What|Which thing] [stands|lies] [closer|nearer], {the} or {other}?',
        'Is {the} [closer|nearer] or {other}?', '{The} or {other}: which is [closer|nearer]?',
        f'{_KNOW} [which|what] is [closer|nearer], {{the}} or {{other}}',
        'Between {the} and {other}, which [is|one is] [nearer|closer]?',
        'Of {the} and {other}, [what|which one] is [nearest|closest|closer]?',
        'Which would you reach first, {the} or {other}?',
        'Which has the smaller distance, {the} or {other}?'),
    'floor': (
        '[What|Which|What kind of] [floor|ground|surface] [is it|is that|is this|are you on|'
        'do you stand on|do you drive on|is below you|is under the robot|do you notice]?',
        '[What|Of what] is the [floor|ground] [made|made of|covered with]?',
        f'{_NAME} the [kind|type|sort] of floor.', f'{_KNOW} what the [floor|ground] is made of',
        'What [material|stuff] [is the floor|is the floor made of|lies on the ground|do you see '
        'below]?', 'What is [under you|under the robot|beneath you|on the ground|below]?',
        'Is the floor wood, tile, carpet or concrete?', 'What does the [floor|ground] look like?',
        'Describe the floor.', 'Floor type?', 'What are you [standing|driving] on?'),
    'floor.is': (
        'Is the [floor|ground] [made of|covered with|of|] {floor}?', 'Is it a {floor} floor?',
        'Do you [see|have|stand on|drive on] a {floor} floor?', 'Is there {floor} on the '
        '[floor|ground]?', f'{_KNOW} [whether|if] the floor is {{floor}}',
        'The floor is {floor}, [right|correct|is it not]?'),
    'distance': (
        '[How far|How far away|How far off|How many metres] [is|are we from|is it to|to] {the}?',
        f'{_KNOW} {_HOW_FAR} {{the}} is',
        'What [distance|range] [is|has|separates you from] {the}?',
        f'{_NAME} [the distance of|the distance to|the range to] {{the}}[| in metres].',
        'How [many metres|many meters|far] [is it|are there] [from here|from you|] to {the}?',
        'What is the [range|distance] [of|to|between you and] {the}?', 'Distance to {the}?',
        '{The}: how far?', 'How close is {the}, in metres?', 'How near is {the}?',
        'Estimate [the distance to|how far it is to] {the}.',
        'How [long|far] would the robot have to drive to {the}?'),
    'clear.way': (
        f'Is [the way|the path|the road|it|everything|the space] {_FREE} {_AHEAD}?',
        f'Is the [way|path|road|route] {_AHEAD} {_FREE}?',
        '[Can|May|Could|Should] [you|we|the robot|I] [go|drive|move|roll|continue|head] [ahead|'
        'on|forward|forwards|straight on|straight ahead][| safely| now| a bit]?',
        f'Is there [enough room|enough space|room|space|nothing in the way] {_AHEAD}?',
        f'{_KNOW} [whether|if] the way [ahead|] is [free|clear]',
        'Is [going|driving|moving] [ahead|forward|straight on] [safe|possible|okay|all right]?',
        'Would the robot get through?', 'Is the robot free to [go|drive|move] [ahead|on]?',
        'Nothing in the way?', 'Way [free|clear]?'),
    'clear.space': (
        f'How [much|many metres of] [free|open|clear|empty] [space|room|way] [is|are] {_AHEAD}?',
        '[How far|How many metres] [can|could|may] [you|we|the robot|I] [go|drive|move] [ahead|on|'
        'forward|forwards|straight on|straight ahead][| before something is in the way]?',
        f'{_KNOW} how far the [way|path] is [free|clear]',
        'How [long|far] is the [free|clear|open] [way|path|stretch]?',
        f'How much [room|space] [is|have you got|do you have|is left] {_AHEAD}?',
        'When [does|would] the robot meet something, in metres?',
        f'What is the [free|clear] [distance|space|range] {_AHEAD}?',
        'How many metres to the next thing ahead?', f'{_NAME} the free distance[| ahead].',
        'Free space?', 'For how far is the way [free|clear|open]?'),
    'place.nearest': (
        f'{_WAY} is the {_NEAREST} {_THING}?', f'{_KNOW} {_WHERE} the {_NEAREST} {_THING} is',
        f'[On|To|At] [which|what] side is the {_NEAREST} {_THING}?',
        f'In [which|what] direction [do you see|lies|stands] the {_NEAREST} {_THING}?',
        f'Is the {_NEAREST} {_THING} [on the left, ahead or on the right|left, ahead or right]?',
        f'{_NAME} the [side|direction|place] of the {_NEAREST} {_THING}.',
        f'Which direction is the {_NEAREST} {_THING} in?',
        f'Whereabouts do you see what is {_NEAREST}?',
        f'Where [stands|lies] what is {_NEAREST}[| to {_YOU}]?', f'{_NEAREST} {_THING}: where?'),
    'motion.what': (
        '[What|How] [is|does] [the robot|the base] [up to|do|doing|move|moving][| now| right '
        'now]?',
        'What are you [up to|doing now|doing right now|doing just now|doing at the moment]?',
        'How are you moving[| now| right now| at the moment|, if at all]?',
        f'{_NAME} [your motion|your movement|the motion|how you move|how the robot moves].',
        f'{_KNOW} [how you are moving|what the robot is doing|what you are doing]',
        '[What|Which|What kind of|What sort of] [motion|movement] [is it|is that|is this|'
        'is going on|do you sense|are you making|do you notice|takes place]?',
        'Describe [your motion|your movement|how you move|the movement].',
        'What does the IMU [say|show|tell|feel]?', 'What is [happening|going on] with [you|the '
        'robot|your body]?', 'What [do|can] you feel?', 'Are you moving, and how?',
        'How does [it|the motion] feel?', 'What is the [state of motion|motion state]?',
        'In what way [is the robot moving|are you moving]?', 'Your motion?'),
    'motion.is': (
        '[Is|Is not] the [robot|base|machine] {doing}[| now| right now| at the moment]?',
        'Are you {doing} [now|right now|at the moment|just now|or not]?',
        f'{_KNOW} [whether|if] [you are|the robot is] {{doing}}',
        'Does it [feel|seem] [like|as if you are|as though you were] {doing}?',
        'You are {doing}, [right|correct|are you not]?', 'Is the motion one of {doing}?',
        'Would you say [that|] you are {doing}?', 'Do you [sense|notice|feel] that you are '
        '{doing}?', '[The robot|It] is {doing}, is it not?', 'Might the robot be {doing}?'),
    'sound.what': (
        '[What|Which|What kind of|What sort of] [sound|noise] [is it|is that|is this|do you hear|'
        'can you hear|is there|is audible|is to be heard|do you notice|is playing]?',
        f'{_NAME} [the sound|the noise|what you hear|what is to be heard|what you are hearing].',
        f'{_KNOW} what [you hear|the sound is|that sound is|makes that noise]',
        'What [are you hearing|is audible|can be heard|is to be heard|makes that noise|'
        'makes this sound|is making a noise|sounds there]?', 'What is that [sound|noise]?',
        'What does [it|that] sound like?', 'Describe [the sound|the noise|what you hear].',
        'What do your [ears|microphones] [hear|pick up|tell you]?',
        'Listen: what [is it|is that|do you hear]?', 'Do you hear [anything|something], and what?',
        'What is [in the air|going on acoustically]?', 'Which [noise|sound] does the microphone '
        '[hear|record|catch]?', '[Sound|Noise]?'),
    'sound.is': (
        '[Do|Can] you [hear|make out|notice|detect|recognise] {sound}[| now| there| somewhere]?',
        'Is there [the sound of|a sound of|a noise of|] {sound}?', 'Is {sound} [to be heard|there|'
        'going on|in the air|what you hear]?', f'{_KNOW} [whether|if] you hear {{sound}}',
        'Is [it|that|the noise|the sound|this] {sound}?', 'Could [it|that] be {sound}?',
        'Have you heard {sound}?', 'Did you hear {sound}?', 'You hear {sound}, [right|correct]?',
        'Is what you hear {sound}?', 'Does the microphone [hear|pick up|catch] {sound}?',
        'Any {sound}?'),
    'sound.quiet': (
        'Is it [quiet|silent|still|calm] [here|there|around you|now|]?', 'Is there [no sound|'
        'no noise|nothing to hear|silence around]?', 'Do you hear [no sound|no noise|not a thing|'
        'nothing at all]?', f'{_KNOW} [whether|if] it is [quiet|silent]',
        'Is the [room|place|air] [quiet|silent]?',
        'Is nothing [to be heard|audible|making noise]?',
        'Is everything [silent|still]?', 'Silence?'),
    'moving.what': (
        '[What|Which object|Which thing|Which item] [is in motion|is moving|moves|is moving '
        'there|is moving around|moves around|changes its place|goes somewhere|is not still]?',
        f'{_NAME} [what is moving|the {_THING} that moves|the moving {_THING}|what moves].',
        f'{_KNOW} [what|which {_THING}] is moving',
        'What do you [see|notice] [move|in motion|going]?',
        'What is the moving [thing|object]?', 'Is anything moving, and what?',
        '[Who|What] [is moving|moves|is walking or driving] [here|there|in the video|]?'),
    'moving.way': (
        f'{_WAY} [is|does] {{the}} [going|go|moving|move|heading|head|walking|travelling]?',
        '[Where|Where to] [goes|moves|is] {the} [off to|going to|headed]?',
        f'{_KNOW} {_WHERE} {{the}} [goes|is going|moves|is moving|is heading]',
        'What is the direction of [motion of|movement of|travel of|] {the}?',
        f'{_NAME} the [direction|way] [of|in which] {{the}} [moves|goes].',
        'Is {the} moving to the left, to the right, towards you or away from you?',
        'Is {the} coming or going, or [where|which way] does it move?',
        'How is {the} moving?', '{The} moves where?', 'Towards what side does {the} move?'),
    'moving.any': (
        'Is there [anything|something] [moving|in motion|that moves]?', 'Do you [see|notice|spot] '
        '[motion|any motion|movement|any movement|something move|anything move]?',
        f'{_KNOW} [whether|if] [anything|something] is moving',
        'Is [something|anything|any object|'
        'any thing] [moving|in motion|on the go] [here|there|in the video|]?',
        'Does [any object|any thing|anything|something] [move|change its place|go anywhere]?',
        'Is [the scene|everything] in motion anywhere?', 'Are there moving [things|objects]?',
        'Any [movement|motion]?'),
    'mixed.see_hear': (
        'What do you [hear and see|see, and what do you hear|notice with eye and ear]?',
        '[Name|Tell me|Say] [what you see and what you hear|what you see and hear|the main object'
        ' and the sound|the biggest thing and the noise].',
        'What is [in view|the largest thing], and what [is heard|sound is there|can be heard]?',
        f'{_KNOW} what you see and hear', 'Which thing do you see and which noise do you hear?'),
    'mixed.see_move': (
        'What do you see and [how do you move|what are you doing|how are you moving]?',
        '[Name|Tell me|Say] [what you see and what you are doing|the largest thing and the '
        'motion|what is in view and how the robot moves].',
        'What is [in view|the biggest thing], and [how do you move|what is the robot doing]?',
        f'{_KNOW} what you see and how you move'),
    'mixed.move_hear': (
        'What are you doing and [hearing|what do you hear]?',
        '[Name|Tell me|Say] [what you are doing and what you hear|your motion and the sound|how '
        'you move and what you hear].',
        'How do you move, and what [do you hear|is heard|noise is there]?',
        f'{_KNOW} how you move and what you hear')}

PROMPTS: tuple[str, ...] = (
    '[Describe|Report|Tell me|Say|Explain] what [you sense|you perceive|you notice|is there|'
    'is going on|is happening|you see and hear|your sensors tell|is around you|you find here].',
    '[Describe|Summarise|Report|Sketch] [the scene|the situation|your surroundings|the room|'
    'the world around you|the environment|everything|all of it].',
    'What [is|can you say is] [going on|happening|around you|the situation|up][| here| now]?',
    'What is [here|there]?',
    'What do you [see|sense|perceive|notice|make of this|find|sense around you][| here| now]?',
    '[Give|Write|Make|Provide] [me |]a [description|summary|report|caption|short report|short '
    'description|brief caption|brief summary][| of the scene| of what you sense|, please].',
    '[Can|Could] you [describe|report|tell me|say] what [you sense|you perceive|is going on]?',
    'Please [describe|report|say] what [you notice|you sense|is there].',
    '[In a few words|Briefly|In short], [what is going on|what do you sense|describe the scene].')

# Other names that people use: of things as (one, several), of what the robot does, of sounds.
KIND_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    'sofa': (('couch', 'couches'), ('settee', 'settees')), 'shelf': (('bookshelf', 'bookshelves'),
                                                                 ('rack', 'racks')),
    'cabinet': (('cupboard', 'cupboards'), ('closet', 'closets')), 'lamp': (('light', 'lights'),),
    'plant': (('potted plant', 'potted plants'),), 'box': (('carton', 'cartons'),
                                                           ('crate', 'crates')),
    'cup': (('mug', 'mugs'),), 'cone': (('traffic cone', 'traffic cones'),),
    'table': (('desk', 'desks'),), 'chair': (('seat', 'seats'),), 'bottle': (('flask', 'flasks'),),
    'person': (('human', 'humans'), ('human being', 'human beings'))}
DOING_NAMES: dict[str, tuple[str, ...]] = {
    'standing still': ('at rest', 'not moving', 'stationary', 'standing', 'stopped'),
    'driving straight': ('going straight', 'driving straight ahead', 'moving straight on'),
    'speeding up': ('accelerating', 'getting faster', 'going faster'),
    'slowing down': ('braking', 'getting slower', 'decelerating'),
    'turning left': ('rotating left', 'turning to the left', 'spinning left'),
    'turning right': ('rotating right', 'turning to the right', 'spinning right'),
    'turning': ('rotating', 'spinning', 'making a turn'),
    'moving': ('in motion', 'driving', 'on the move'),
    'hitting an obstacle': ('bumping into an obstacle', 'colliding', 'crashing'),
    'hitting something': ('bumping into something', 'colliding with something'),
    'being lifted': ('being picked up', 'being raised', 'lifted up', 'being carried'),
    'driving over rough ground': ('on rough ground', 'driving over bumps', 'on bumpy ground')}
SOUND_NAMES: dict[str, tuple[str, ...]] = {
    'beeping': ('beeps', 'a beep'), 'an alarm': ('a siren', 'the alarm'),
    'a bell': ('a bell ringing', 'ringing'), 'knocking': ('a knock', 'someone knocking'),
    'music': ('a melody', 'a tune', 'some music'), 'a motor': ('an engine', 'a machine running'),
    'running water': ('water', 'flowing water'), 'footsteps': ('steps', 'someone walking'),
    'barking': ('a dog', 'a dog barking'), 'whistling': ('a whistle', 'someone whistling'),
    'clapping': ('applause', 'someone clapping')}
