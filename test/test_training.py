"""Training: targets and masks are right, a tiny run learns, a killed run goes on unharmed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_worlds import ONE_EXPERT, TINY, killed, lines, render, trainer

from onellm_ros.modality import Modality
from onellm_ros.preprocess import denormalise
from onellm_ros.simulation.language import random_truth
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.truth import (
    COLOURS,
    DIRECTIONS,
    KINDS,
    MOTIONS,
    SOUNDS,
    SeenObject,
    Truth,
)
from onellm_ros.training.data import WorldBatches
from onellm_ros.training.heads import (
    CELL_OUTPUTS,
    STILL_WEIGHT,
    Cells,
    WayHead,
    cell_loss,
    cell_positions,
    cells_at,
)
from onellm_ros.training.losses import Losses, answer_loss, block_mask
from onellm_ros.training.mirror import mirror_signal, mirror_truth
from onellm_ros.training.recipes import NANO_RECIPE
from onellm_ros.training.shards import FIRST_KIND, Shards
from onellm_ros.training.slots import SCENE, SLOT, SceneEmbedding, SlotHead, layout, slot_targets
from onellm_ros.training.stages import Stage
from onellm_ros.training.targets import (
    IGNORE,
    TARGETS,
    TELLS,
    WAYS,
    cell_owners,
    cell_ways,
    told_by,
    truth_targets,
    way_of,
)
from onellm_ros.training.templates import Segment, pack_segments


def item(kind: str, colour: str, **changes) -> SeenObject:
    values = {'object_id': 1, 'kind': kind, 'colour': colour, 'place': 'left', 'distance_m': 2.2,
              'bearing_rad': 0.4, 'pixels': 0.05, 'visible': 1.0, 'direction': ''}
    return SeenObject(**{**values, **changes})


TRUTH = Truth(seed=1, motion='turning left', sound='a bell', floor='wood', wall_colour='white',
              clear_m=3.4, seen=(item('ball', 'red'), item('chair', 'blue', visible=0.1),
                                 item('person', 'green', direction='to the left')))


def test_targets_say_what_is_clear_and_leave_out_the_rest():
    targets = truth_targets(TRUTH)
    assert targets['kind'][KINDS.index('ball')] == 1
    assert targets['kind'][KINDS.index('sofa')] == 0
    assert targets['kind'][KINDS.index('chair')] == IGNORE     # there, but hidden
    assert targets['metres'][KINDS.index('ball')] == 2
    assert targets['total'][0] == IGNORE
    assert targets['direction'][0] == 1
    assert targets['motion'][0] == MOTIONS.index('turning left')
    told = told_by(targets, frozenset({Modality.AUDIO}))
    assert told['sound'][0] == SOUNDS.index('a bell')
    assert (told['kind'] == IGNORE).all() and told['motion'][0] == IGNORE
    assert {name for names in TELLS.values() for name in names} == {t.name for t in TARGETS}


def test_objects_stand_in_slots_from_left_to_right():
    left, right = item('ball', 'red', bearing_rad=0.6), item('cup', 'blue', bearing_rad=-0.6)
    same = item('sofa', 'red', bearing_rad=0.61)
    taken = layout((left, right, same), 8, by_place=False)
    assert {slot: seat.thing.kind for slot, seat in taken.items()} == {
        0: 'ball', 1: 'sofa', 7: 'cup'}
    assert taken[1].other == 2 and taken[7].other == 6
    slots, scene = slot_targets(TRUTH, Modality.VIDEO, 4)
    names = [a.name for a in SLOT]
    said = [dict(zip(names, row[:-1], strict=True)) for row in slots.tolist() if row[0]]
    assert [KINDS[s['kind'] - 1] for s in said] == ['ball', 'chair', 'person']
    assert [s['way'] for s in said] == [0, 0, 1] and [s['clear'] for s in said] == [1, 0, 1]
    assert [a.name for a, v in zip(SCENE, scene, strict=True) if v != IGNORE] == ['floor']
    slots, scene = slot_targets(TRUTH, Modality.FMRI, 4)
    assert (slots[:, -1] == IGNORE).all()
    assert (slots[:, names.index('colour')] == IGNORE).all() and (scene == IGNORE).all()
    slots, scene = slot_targets(TRUTH, Modality.AUDIO, 4)
    assert (slots == IGNORE).all() and scene[-1] == SOUNDS.index('a bell')


def test_told_scenes_can_be_read_back_from_their_tokens():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    embedding, head = SceneEmbedding(64, 8, 0.1), SlotHead(64)
    rows = [slot_targets(random_truth(rng), Modality.VIDEO, 8) for _ in range(128)]
    slots, scene = (torch.from_numpy(np.stack(x)) for x in zip(*rows, strict=True))
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    tokens = embedding(slots, scene).detach()
    assert abs(float(tokens.square().mean().sqrt()) - 0.1) < 0.01
    for _ in range(60):
        loss, right = head.loss(tokens, slots, scene)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert right['kind'] > 0.95 and right['colour'] > 0.95 and right['place'] > 0.95
    assert not torch.equal(embedding(slots, scene, blur=0.3), tokens)


def test_objects_on_a_border_settle_where_they_are_seen():
    slots = torch.full((2, 4, len(SLOT) + 1), IGNORE)
    slots[:, :, 0] = 0
    slots[:, 1, 0], slots[:, 1, 2], slots[:, 1, -1] = 3, 5, 2      # one thing, or in slot 2
    head = SlotHead(8)
    torch.nn.init.zeros_(head.slot.weight)
    with torch.no_grad():
        head.slot.bias.zero_()
        head.slot.weight[3, 0] = 9.0                               # feature 0 shows this kind
    tokens = torch.zeros(2, 4, 8)
    tokens[0, 2, 0] = tokens[1, 1, 0] = 5.0
    settled = head.settle(tokens, slots)
    assert settled[0, 2, :3].tolist() == [3, IGNORE, 5] and settled[0, 1, 0] == 0
    assert (settled[0, 1, 1:] == IGNORE).all() and torch.equal(settled[1], slots[1])
    slots[0, 2, 0] = 7                                             # taken: nobody moves
    assert torch.equal(head.settle(tokens, slots), slots)


def test_cells_tell_of_their_whole_object():
    dense = np.full((16, 16, 2), 255, np.uint8)
    dense[3, 4] = FIRST_KIND + KINDS.index('ball'), 0            # the red ball
    owner = cell_owners(dense, TRUTH)
    np.testing.assert_allclose(owner[3, 4], (0.4, np.log(0.05) / 5), rtol=1e-6)
    assert np.isnan(owner[3, 5]).all()
    twins = replace(TRUTH, seen=(item('ball', 'red'), item('ball', 'red', bearing_rad=-0.2)))
    assert np.isnan(cell_owners(dense, twins)).all()


def test_cells_tell_where_their_object_goes():
    dense = np.full((16, 16, 2), 255, np.uint8)
    dense[3, 4] = FIRST_KIND + KINDS.index('ball'), 0            # the red ball, at rest
    dense[5, 6] = FIRST_KIND + KINDS.index('person'), list(COLOURS).index('blue')
    walker = item('person', 'blue', direction='to the right')
    going = replace(TRUTH, seen=(item('ball', 'red'), walker))
    way = cell_ways(dense, going)
    assert (way[3, 4], way[5, 6]) == (0, 1 + DIRECTIONS.index('to the right'))
    assert (np.delete(way.ravel(), [3 * 16 + 4, 5 * 16 + 6]) == 255).all()
    assert way_of(item('ball', 'red', moves=True)) == WAYS - 1
    twins = replace(TRUTH, seen=(item('ball', 'red', moves=True), item('ball', 'red')))
    assert (cell_ways(dense, twins) == 255).all()


def test_the_head_of_ways_learns_and_weighs_what_is_still_less():
    torch.manual_seed(0)
    head, tokens = WayHead(8, 8, hidden=4), torch.randn(2, 64, 8)
    way = torch.full((2, 16, 16), 255, dtype=torch.uint8)
    assert head(tokens).shape == (2, WAYS, 16, 16)
    loss, right = head.loss(tokens, way)
    assert loss == 0.0 and right == 0.0                           # nothing to learn, no NaN
    way[0, 2, 3], way[1, 4, 5] = 0, 2
    still, moving = way.clone(), way.clone()
    still[1], moving[0] = 255, 255
    parts = [head.loss(tokens, one)[0] for one in (still, moving)]
    torch.testing.assert_close(sum(parts), head.loss(tokens, way)[0])
    log_p = torch.log_softmax(head(tokens)[0, :, 2, 3], 0)[0]
    torch.testing.assert_close(parts[0], -STILL_WEIGHT * log_p)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(60):
        loss, right = head.loss(tokens, way)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert right == 1.0 and loss < 0.2


def test_half_of_a_video_batch_shows_something_that_moves(prepared):
    stage = Stage('encoder', 'encoder', (((Modality.VIDEO,), 1.0),), ('encoder',), 1, batch=200)
    shards = Shards(prepared / 'worlds')
    moving = [w for w in range(len(shards)) if any(t.direction for t in shards.truth(w).seen)]
    assert shards.moving == moving and 0 < len(moving) < len(shards)
    drawn: list[list[int]] = []

    class Recorded(WorldBatches):
        def build(self, worlds, present, rng, rngs):
            drawn.append(worlds)

    for batches in (Recorded(prepared / 'worlds', stage, TINY, None),
                    Recorded(prepared / 'worlds', stage, TINY, None, as_rendered=True)):
        batches[0]
    shares = [np.isin(worlds, moving).mean() for worlds in drawn]
    natural = len(moving) / len(shards)
    assert shares[0] > 0.5 + natural / 2 - 0.1 and abs(shares[1] - natural) < 0.12


def test_groups_of_a_cloud_show_what_the_picture_shows_there():
    camera, distance = Camera(), torch.full((1, 16, 16), torch.nan)
    distance[0, 8, 2], distance[0, 8, 13] = 2.0, 3.0
    there = cell_positions(distance, camera)[0]
    assert torch.isfinite(there).all(1).sum() == 2
    left, right = there[8 * 16 + 2], there[8 * 16 + 13]
    assert left[1] > 0.5 and right[1] < -0.5 and 1.8 < left[0] < 2.3 and left[2] < 0.6
    cells = Cells(torch.full((1, 16, 16, 2), 255, dtype=torch.uint8), distance,
                  torch.full((1, 16, 16, 2), torch.nan))
    cells.dense[0, 8, 2], cells.owner[0, 8, 2] = torch.tensor([5, 1]), 0.5
    places = torch.stack([left + 0.1, left + 1.0])[None]          # on the thing, off everything
    found = cells_at(cells, places, camera)
    assert found.dense[0].tolist() == [[5, 1], [255, 255]]
    assert found.distance[0, 0] == 2.0 and torch.isnan(found.distance[0, 1])
    out = torch.nn.functional.one_hot(torch.tensor([[5, 5]]), CELL_OUTPUTS) * 9.0
    loss, share = cell_loss(out, found)
    assert torch.isfinite(loss) and share == 1.0
    loss, share = cell_loss(out[:, 1:], cells_at(cells, places[:, 1:], camera))
    assert loss == 0.0 and torch.isnan(share)                     # nothing to learn, no NaN


def test_a_mirrored_world_is_that_of_a_mirrored_camera(prepared):
    turned = mirror_truth(TRUTH)
    assert [s.place for s in turned.seen] == ['right'] * 3
    assert turned.seen[2].direction == 'to the right' and turned.seen[0].bearing_rad == -0.4
    assert mirror_truth(turned) == TRUTH
    shards = Shards(prepared / 'worlds')
    for name in ('image', 'video', 'depth', 'normal', 'point', 'dense', 'distance'):
        rows = shards.rows([0, 1], name)
        there = mirror_signal(rows, name)
        assert not np.array_equal(there, rows, equal_nan=True), name
        np.testing.assert_allclose(mirror_signal(there, name), rows, atol=2e-3, err_msg=name)
    # The normals of mirrored depth are the mirrored normals: x changes its sign.
    normal = denormalise(torch.from_numpy(shards.rows([0], 'normal').astype(np.float32)))
    turned_x = denormalise(torch.from_numpy(
        mirror_signal(shards.rows([0], 'normal').astype(np.float32), 'normal')))[0, 0]
    torch.testing.assert_close(turned_x, 1 - normal[0, 0].flip(-1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match='no mirror image'):
        mirror_signal(shards.rows([0], 'audio'), 'audio')


def test_a_segment_sees_the_prefix_and_itself_only():
    segments = torch.tensor([[1, 1, 2, 2, 0]])
    mask = block_mask(2, segments)[0, 0]
    assert mask[4].tolist() == [True, True, False, False, True, False, False]
    assert mask[3].tolist() == [True, True, True, True, False, False, False]
    assert mask[0].tolist() == [True] + [False] * 6
    assert mask.diagonal().all()


def test_packing_labels_answers_only():
    packed = pack_segments([[Segment.of([5, 6], [7, 8], 'a'), Segment.of([9], [3], 'b')]],
                           pad=0, multiple=4)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9, 3, 0, 0]]
    assert packed.labels.tolist() == [[-100, -100, 7, 8, -100, 3, -100, -100]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 0, 1, 0, 0]]
    logits = torch.nn.functional.one_hot(packed.labels.clamp(min=0), 10).float() * 20
    logits[0, 5, 3], logits[0, 5, 2] = 0, 20                    # the second answer is wrong
    _, outcome = answer_loss(logits[packed.labels != -100], packed, 3)
    assert outcome == {'a': [1.0, 1.0], 'b': [0.0, 1.0]}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    return render(tmp_path_factory.mktemp('training'))


def test_shards_hold_what_the_world_gave_and_reopen(prepared):
    shards = Shards(prepared / 'worlds')
    assert len(shards) == 24
    assert shards.row(0, 'image').shape == (112, 112, 3)
    assert shards.row(13, 'dense').shape == (16, 16, 2)
    from onellm_ros.simulation.world import World
    from onellm_ros.training.shards import world_seed
    again = World(world_seed(0, 1, 1)).sample(cloud_points=256, video=(2, 150, 112))
    assert shards.truth(13) == again.truth
    np.testing.assert_array_equal(shards.row(13, 'fmri'), again.fmri)
    np.testing.assert_allclose(shards.row(13, 'imu'), again.imu, rtol=1e-6)
    assert not list((prepared / 'worlds').glob('.partial-*'))


SHORT = tuple(replace(s, steps=6, batch=4, warmup=2, questions=3) for s in NANO_RECIPE.stages)


def test_a_killed_run_goes_on_with_the_same_numbers(prepared, tmp_path):
    # (the third stage takes its batches in two parts)
    stages = tuple(replace(s, accumulate=2 if i == 2 else 1) for i, s in enumerate(SHORT))
    options = {'save_every': 3, 'log_every': 2}
    whole = trainer(prepared, tmp_path / 'whole', stages, ONE_EXPERT, **options)
    whole.run()
    killed(trainer(prepared, tmp_path / 'cut', stages, ONE_EXPERT, **options), 2 * 6 + 5)
    with open(tmp_path / 'cut' / 'log.jsonl', 'a') as log:
        log.write('{"stage": "ima')                  # what a kill may leave
    second = trainer(prepared, tmp_path / 'cut', stages, ONE_EXPERT, **options)
    assert (second.stage_index, second.step) == (2, 3)
    second.run()
    for (name, a), b in zip(whole.model.state_dict().items(),
                            second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    logs = [lines(tmp_path / name, untimed=True) for name in ('whole', 'cut')]
    assert logs[0] == logs[1]
    assert [x['step'] for x in logs[0] if x['stage'] == stages[2].name] == [2, 4, 6, 6]


def test_only_the_parts_of_the_stage_learn(prepared, tmp_path):
    run = trainer(prepared, tmp_path, (replace(SHORT[2], trains=('upm',)),), ONE_EXPERT)
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.run()
    upm = {id(p) for p in run.model.part('upm').parameters()}
    changed = {name for name, p in run.model.named_parameters()
               if not torch.equal(before[name], p)}
    assert changed and changed <= {n for n, p in run.model.named_parameters() if id(p) in upm}


def test_a_tiny_run_learns_the_sound_from_audio(prepared, tmp_path):
    stage = Stage('align', 'align', (((Modality.AUDIO,), 1.0),),
                  ('tokenizers', 'encoder', 'upm', 'llm'),
                  steps=60, batch=16, warmup=5, questions=2, learning_rate=3e-3)
    run = trainer(prepared, tmp_path, (stage,))
    data = WorldBatches(prepared / 'worlds', stage, run.config, run.text)
    losses = Losses(run.model, None, run.text.bos)
    first = float(losses(stage, data[0])[0].detach())
    run.run()
    assert float(losses(stage, data[0])[0].detach()) < 0.5 * first
    assert [x['step'] for x in lines(tmp_path) if 'samples_per_s' in x] == [50, 60]
