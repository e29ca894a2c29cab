"""Simulated robots, by seed: every signal they sense and the truth about it.

Owns the composition of scene, motion, sound and sensors into a :class:`World` (one window, yields
an :class:`Observation`) and a :class:`LiveWorld` (without end, for the simulation node).
Deterministic: a seed gives the same bytes, whichever parts are asked for and in whatever order.
No torch, no ROS.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from onellm_ros.modality import Modality, Sample, parse_modality
from onellm_ros.simulation import sensors
from onellm_ros.simulation.live_motion import LivePlan
from onellm_ros.simulation.live_sounds import LiveSound
from onellm_ros.simulation.motion import IMU_S, WINDOW_S, Pose, imu, lift_height, plan_window
from onellm_ros.simulation.render import Camera, Stage, View, render
from onellm_ros.simulation.scene import Scene, compose, furnish
from onellm_ros.simulation.seeing import clear_way, direction_of, seen_things
from onellm_ros.simulation.sounds import RATE_HZ, synthesize
from onellm_ros.simulation.tracing import Primitives
from onellm_ros.simulation.truth import MOTIONS, SOUNDS, Truth

EVERYTHING = frozenset(Modality)
SENSED_S = IMU_S                 # length of the IMU, audio and video signals, seconds
_TRAINING_SALT, _HELD_OUT_SALT, _LIVE_SALT = 0x0E11, 0x4E1D, 0x11FE
_LIVE_REACH_S = 4.0              # how long a mover goes one way in a live world
_LIVE_CLEARANCE_M = 0.45         # wanted around the robot at its start
# Streams of random numbers of a world; a stream is never shared by two uses.
_SCENE, _MOTION, _SOUND, _IMU, _DEPTH, _SCAN, _FMRI = range(7)


@dataclass(frozen=True, eq=False)
class Observation:
    """Everything that the robot sensed in the window that ends at ``stamp_ns``.

    Signals that were not asked for are None (``ids`` and ``truth`` always exist).

    :param image: uint8 [H, W, 3] RGB. :param depth: float32 [H, W] metres, NaN no measurement.
    :param normal: float32 [H, W, 3] unit, camera optical frame.
    :param ids: int16 [H, W], as :class:`render.View`.
    :param cloud: float32 [N, 6] x y z in the base frame (metres), r g b in 0..1.
    :param imu_stamps_ns: int64 [n]; :param imu: float64 [n, 6] m/s^2 and rad/s, at 200 Hz.
    :param audio: float32 [n] mono, ending at the window's end.
    :param video: uint8 [T, h, w, 3], evenly spaced over 2 s, the last at the window's end.
    :param fmri: float32 [V], SYNTHETIC (see ``sensors.fmri``).
    :param intrinsics: (fx, fy, cx, cy) of image, depth, normal and ids, pixels.
    """

    stamp_ns: int
    image: np.ndarray | None
    depth: np.ndarray | None
    normal: np.ndarray | None
    ids: np.ndarray
    cloud: np.ndarray | None
    imu_stamps_ns: np.ndarray | None
    imu: np.ndarray | None
    audio: np.ndarray | None
    audio_rate_hz: float
    video: np.ndarray | None
    fmri: np.ndarray | None
    intrinsics: tuple[float, float, float, float]
    truth: Truth

    @property
    def video_stamps_ns(self) -> np.ndarray:
        """The times of the video frames, int64 [T] nanoseconds; empty without video."""
        if self.video is None:
            return np.zeros(0, np.int64)
        late = sensors.frame_times(len(self.video), SENSED_S)
        return self.stamp_ns + np.round(late * 1e9).astype(np.int64)

    def chosen(self) -> dict[Modality, list[Sample]]:
        """Return the signals that exist as the samples of one window, by modality."""
        out: dict[Modality, list[Sample]] = {}
        for modality, data in ((Modality.IMAGE, self.image), (Modality.DEPTH, self.depth),
                               (Modality.NORMAL, self.normal), (Modality.POINT, self.cloud),
                               (Modality.FMRI, self.fmri)):
            if data is not None:
                pictures = modality not in (Modality.POINT, Modality.FMRI)
                out[modality] = [Sample(self.stamp_ns, data,
                                        'synthetic' if modality is Modality.FMRI else '',
                                        intrinsics=self.intrinsics if pictures else None)]
        if self.video is not None:
            out[Modality.VIDEO] = [Sample(int(stamp), frame) for stamp, frame in
                                   zip(self.video_stamps_ns, self.video, strict=True)]
        if self.imu is not None and self.imu_stamps_ns is not None:
            rows = self.imu.astype(np.float32)
            out[Modality.IMU] = [Sample(int(stamp), row) for stamp, row in
                                 zip(self.imu_stamps_ns, rows, strict=True)]
        if self.audio is not None:
            start = self.stamp_ns - round(len(self.audio) / self.audio_rate_hz * 1e9)
            out[Modality.AUDIO] = [Sample(start, self.audio, rate_hz=self.audio_rate_hz)]
        return out


class World:
    """A room, a robot that moves in it for one window, and what there is to hear.

    :param seed: everything follows from it, 0 or more.
    :param held_out: draw from the worlds that are kept for evaluation; no seed gives the same
        world with and without it.
    :param camera: the robot's camera; None: 224x168, 80 degrees, height and tilt varied by seed.
    :param motion: one of MOTIONS, or None for a random one. :param sound: likewise of SOUNDS.
    :raises ValueError: for a negative seed, an unknown motion or sound.
    """

    def __init__(self, seed: int, *, held_out: bool = False, camera: Camera | None = None,
                 motion: str | None = None, sound: str | None = None) -> None:
        if seed < 0:
            raise ValueError(f'seed is {seed}: expected 0 or more')
        for value, known in ((motion, MOTIONS), (sound, SOUNDS)):
            if value is not None and value not in known:
                raise ValueError(f'{value!r} is unknown: expected one of {", ".join(known)}')
        self.seed, self.held_out = seed, held_out
        rng = self._stream(_MOTION)
        drawn_motion, drawn_sound = rng.choice(MOTIONS), rng.choice(SOUNDS)
        self.motion, self.sound = motion or str(drawn_motion), sound or str(drawn_sound)
        mount, pitch = float(rng.uniform(0.55, 0.65)), float(rng.uniform(6.0, 10.0))
        self.camera = camera or Camera(mount_m=mount, pitch_deg=pitch)
        lift = lift_height(rng) if self.motion == 'being lifted' else 0.0
        plan_seed = int(rng.integers(2 ** 63))
        # Planned twice with the same numbers: where the way leads decides where it may end.
        trial = plan_window(np.random.default_rng(plan_seed), self.motion, Pose(0.0, 0.0, lift))
        self.scene = compose(self._stream(_SCENE), trial.position[::16, :2])
        x, y, yaw = self.scene.view
        self._way = plan_window(np.random.default_rng(plan_seed), self.motion,
                                Pose(x, y, lift, yaw))
        self._stage: Stage | None = None

    def _stream(self, use: int) -> np.random.Generator:
        salt = _HELD_OUT_SALT if self.held_out else _TRAINING_SALT
        return np.random.default_rng(np.random.SeedSequence([salt, self.seed, use]))

    @property
    def stage(self) -> Stage:
        """The scene made ready for rendering."""
        if self._stage is None:
            self._stage = Stage(self.scene)
        return self._stage

    @property
    def seconds(self) -> float:
        """Length of the window; the robot's pose is known from 0 to it."""
        return self._way.seconds

    def pose(self, t_s: float) -> Pose:
        """Return the base pose ``t_s`` seconds after the window's start."""
        return self._way.pose(t_s)

    def truth(self, t_s: float | None = None) -> Truth:
        """Return what is true at ``t_s`` (None: the window's end), without rendering colours."""
        return self.sample(t_s, parts=()).truth

    def sample(self, t_s: float | None = None, *, cloud_points: int = 2048,
               video: tuple[int, int, int] = (6, 112, 112),
               parts: Collection[Modality | str] | None = None,
               supersample: bool = True) -> Observation:
        """Return what the robot sensed up to ``t_s``.

        :param t_s: end of the signals, seconds from the window's start, at least 2; None: the
            window's end (2.56 s), for which the view was composed.
        :param video: frames, width, height.
        :param parts: the modalities to compute (all if None).
        :param supersample: smooth edges in the image.
        :raises ValueError: for a time outside of the window or an unknown part.
        """
        end = self.seconds if t_s is None else float(t_s)
        if not SENSED_S <= end <= self.seconds:
            raise ValueError(
                f'time is {end} s: expected {SENSED_S} to {self.seconds} s, so that '
                f'{SENSED_S} s of signals lie before it')
        wanted = EVERYTHING if parts is None else {parse_modality(str(p)) for p in parts}
        late, base = end - self.seconds, self.pose(end)
        prims = self.stage.primitives(late)
        view = render(prims, self.stage.room, self.camera, base,
                      colour=Modality.IMAGE in wanted, supersample=supersample)
        truth = self._truth(prims, view, base, end)
        stamps = values = cloud = audio = film = None
        if Modality.POINT in wanted:
            cloud = sensors.scan(prims, self.stage.room, base, cloud_points,
                                 self._stream(_SCAN), self.camera.mount_m)
        if Modality.IMU in wanted:
            stamps, values = self._imu(end)
        if Modality.AUDIO in wanted:
            audio = synthesize(self.sound, SENSED_S, self._stream(_SOUND))
        if Modality.VIDEO in wanted:
            film = self._film(end, video)
        return Observation(
            round(end * 1e9), view.image if Modality.IMAGE in wanted else None,
            sensors.measured_depth(view, self.camera, self._stream(_DEPTH))
            if Modality.DEPTH in wanted else None,
            view.normal if Modality.NORMAL in wanted else None, view.ids, cloud, stamps, values,
            audio, RATE_HZ, film,
            sensors.fmri(truth.seen, self._stream(_FMRI)) if Modality.FMRI in wanted else None,
            self.camera.intrinsics, truth)

    def _imu(self, end: float) -> tuple[np.ndarray, np.ndarray]:
        stamps, values = imu(self._way, self._stream(_IMU), seconds=WINDOW_S)
        mine = np.flatnonzero(stamps <= end + 1e-9)[-round(SENSED_S * 200.0):]
        return np.round(stamps[mine] * 1e9).astype(np.int64), values[mine]

    def _film(self, end: float, video: tuple[int, int, int]) -> np.ndarray:
        frames, width, height = video
        times = end + sensors.frame_times(frames, SENSED_S)
        camera = replace(self.camera, width=width, height=height)
        return sensors.film(self.stage, camera, [self.pose(float(t)) for t in times],
                            [float(t) - self.seconds for t in times])

    def _truth(self, prims: Primitives, view: View, base: Pose, end: float) -> Truth:
        late = end - self.seconds
        middle = self.pose(end - SENSED_S / 2)
        directions = {t.object_id: direction_of(t, base, late, SENSED_S, middle)
                      for t in self.scene.things}
        room = self.scene.room
        return Truth(self.seed, seen_things(self.scene, prims, view, self.camera, base,
                                            directions),
                     self.motion, self.sound, room.floor, room.wall_colour,
                     clear_way(view, self.camera, base))


class LiveWorld:
    """A robot that drives around without end in a room where things move and sound.

    Every question takes a time in seconds from 0 and may be asked in any order; the same question
    has the same answer, whatever was asked before.

    :param seed: everything follows from it, 0 or more.
    :raises ValueError: for a negative seed.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f'seed is {seed}: expected 0 or more')
        self.seed = seed
        self.scene, self._plan = self._furnish()
        self.stage = Stage(self.scene)
        self._sound = LiveSound(seed)

    def _furnish(self) -> tuple[Scene, LivePlan]:
        """Return the first random scene that gives the robot space at its start, and its drive."""
        rng = self._stream(_SCENE, 0.0)
        for _ in range(64):
            scene = furnish(rng, reach_s=_LIVE_REACH_S)
            x, y, yaw = scene.view
            plan = LivePlan(self.seed, scene.room.size, scene.discs(), Pose(x, y, 0.0, yaw))
            if plan.clearance(np.array(x), np.array(y)) >= _LIVE_CLEARANCE_M:
                return scene, plan
        raise RuntimeError(f'live world {self.seed}: no scene of 64 gives the robot '
                           f'{_LIVE_CLEARANCE_M} m of space at its start; use another seed')

    def _stream(self, use: int, t_s: float) -> np.random.Generator:
        return np.random.default_rng(
            np.random.SeedSequence([_LIVE_SALT, self.seed, use, round(t_s * 1e6)]))

    @property
    def audio_rate_hz(self) -> float:
        """Audio samples a second."""
        return self._sound.rate_hz

    def step_to(self, t_s: float) -> Pose:
        """Plan the drive up to ``t_s`` and return the base pose then."""
        return self._plan.pose(t_s)

    def pose(self, t_s: float) -> Pose:
        """Return the base pose at ``t_s``."""
        return self._plan.pose(t_s)

    def observe_camera(self, t_s: float, camera: Camera, *, supersample: bool = False,
                       colour: bool = True) -> View:
        """Return what a camera delivers at ``t_s``: the depth is the noisy, measured one."""
        view = self._exact(t_s, camera, colour, supersample)
        return replace(view, depth=sensors.measured_depth(view, camera,
                                                          self._stream(_DEPTH, t_s)))

    def _exact(self, t_s: float, camera: Camera, colour: bool, supersample: bool = False) -> View:
        return render(self.stage.primitives(t_s), self.stage.room, camera, self.pose(t_s),
                      colour=colour, supersample=supersample)

    def cloud(self, t_s: float, points: int = 8192) -> np.ndarray:
        """Return the coloured laser scan at ``t_s``, float32 [points, 6], base frame."""
        return sensors.scan(self.stage.primitives(t_s), self.stage.room, self.pose(t_s), points,
                            self._stream(_SCAN, t_s))

    def imu_between(self, t0_s: float, t1_s: float, rate_hz: float = 200.0
                    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the IMU samples in [t0_s, t1_s): stamps [n] seconds, values [n, 6]."""
        return self._plan.imu_between(t0_s, t1_s, rate_hz)

    def audio_between(self, t0_s: float, t1_s: float) -> np.ndarray:
        """Return the audio samples k with t0_s <= k / audio_rate_hz < t1_s, float32 [n]."""
        return self._sound.between(t0_s, t1_s)

    def fmri(self, t_s: float, camera: Camera) -> np.ndarray:
        """Return the SYNTHETIC fMRI-like vector at ``t_s`` (see ``sensors.fmri``)."""
        return sensors.fmri(self.truth(t_s, camera).seen, self._stream(_FMRI, t_s))

    def truth(self, t_s: float, camera: Camera | None = None, window_s: float = SENSED_S
              ) -> Truth:
        """Return what is true of the window that ends at ``t_s``, as this camera sees it."""
        camera = camera or Camera()
        start = max(0.0, t_s - window_s)
        end = max(t_s, start + 0.01)
        base, middle = self.pose(t_s), self.pose((start + t_s) / 2)
        view = self._exact(t_s, camera, colour=False)
        directions = {t.object_id: direction_of(t, base, t_s, t_s - start, middle)
                      for t in self.scene.things}
        room = self.scene.room
        return Truth(
            self.seed, seen_things(self.scene, self.stage.primitives(t_s), view, camera, base,
                                   directions),
            self._plan.motion(start, end), self._sound.kind_between(start, end), room.floor,
            room.wall_colour, clear_way(view, camera, base))
