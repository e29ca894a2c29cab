"""Messages that the perception node sends: descriptions, window reports, answers, diagnostics.

This module owns how results become messages; it decides nothing and publishes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
import math
import time
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from onellm_msgs.msg import Answer, Description, ModalityReport, WindowReport
from onellm_msgs.srv import Ask
from std_msgs.msg import Header

from onellm_ros.choose import Report, Selection
from onellm_ros.modality import Modality
from onellm_ros.perception.results import Described, Reply, WorkerStats
from onellm_ros.perception.sources import CAMERA_INFO
from onellm_ros.ros.inputs import Health

SECOND_NS = 1_000_000_000
_SAME_CLOCK_S = 3600.0
_PAUSE_S = 1.0
_RECENT_S = 10.0  # an unusable message is a warning for so long
ERROR_CODES: Mapping[str, int] = {
    name: getattr(Ask.Response, name) for name in (
        'NONE', 'UNKNOWN', 'NOT_ACTIVE', 'INVALID_QUESTION', 'INVALID_CHOICES', 'INVALID_MODALITY',
        'INVALID_OPTION', 'NO_WINDOW', 'MODALITY_MISSING', 'REJECTED', 'CANCELLED', 'TIMEOUT',
        'MODEL_FAILED', 'INVALID_SOURCE')}


def time_message(stamp_ns: int) -> Time:
    """Return integer nanoseconds as a Time (stamps before 1970 or after 2038 as their limit)."""
    stamp_ns = min(max(stamp_ns, 0), (1 << 31) * SECOND_NS - 1)
    return Time(sec=stamp_ns // SECOND_NS, nanosec=stamp_ns % SECOND_NS)


def report_message(report: Report, end_ns: int, weights: Sequence[float] = ()) -> ModalityReport:
    """Return the report of one modality.

    :param weights: the router's mean weight of each expert; empty before encoding.
    """
    return ModalityReport(
        modality=report.modality.value, topics=list(report.topics), count=report.count,
        first_stamp=time_message(report.first_ns), last_stamp=time_message(report.last_ns),
        age_s=(end_ns - report.last_ns) / SECOND_NS, max_skew_s=report.max_skew_ns / SECOND_NS,
        late=report.late, dropped=report.dropped,
        expert_weights=[float(w) for w in weights])


def _reports(selection: Selection, weights: Mapping[Modality, Sequence[float]]
             ) -> list[ModalityReport]:
    """Return the reports of the modalities that the model saw."""
    known = {r.modality: r for r in selection.reports}
    derived = known.get(Modality.DEPTH)  # normals may be computed from depth
    out = []
    for modality, expert in weights.items():
        report = known.get(modality, derived)
        if report is not None:
            message = report_message(report, selection.end_ns, expert)
            message.modality = modality.value
            out.append(message)
    return out


def description_message(result: Described, base_frame: str) -> Description:
    """Return the description of a window."""
    window = result.selection
    return Description(
        header=Header(stamp=time_message(window.end_ns), frame_id=base_frame),
        window_start=time_message(window.start_ns), window_end=time_message(window.end_ns),
        text=result.answer.text, prompt=result.prompt,
        modalities=_reports(window, result.weights), model=result.model,
        finish_reason=result.answer.finish_reason, tokens=result.answer.tokens,
        skipped_windows=result.skipped, encode_s=result.encode_s,
        first_token_s=result.first_token_s, total_s=result.total_s)


def window_message(selection: Selection, base_frame: str, expected: Collection[Modality], *,
                   skipped: int, late: int, dropped: int, jumps: int, now_ns: int) -> WindowReport:
    """Return the report of a window that closed.

    :param expected: modalities that get an entry even if the window has nothing of them.
    :param now_ns: time on the node's clock.
    """
    reports = [report_message(r, selection.end_ns) for r in selection.reports]
    present = {r.modality for r in selection.reports}
    reports += [ModalityReport(modality=m.value, age_s=math.nan)
                for m in expected if m not in present]
    latency_s = (now_ns - selection.end_ns) / SECOND_NS
    return WindowReport(
        header=Header(stamp=time_message(selection.end_ns), frame_id=base_frame),
        window_start=time_message(selection.start_ns), window_end=time_message(selection.end_ns),
        modalities=reports, closed_by=selection.closed_by, silent=list(selection.silent),
        skipped_windows=skipped, late=late, dropped=dropped, time_jumps=jumps,
        latency_s=latency_s if abs(latency_s) < _SAME_CLOCK_S else math.nan)


def fill_answer(response: Any, reply: Reply, base_frame: str) -> Any:
    """Fill the service's response, the action's result or an Answer, and return it."""
    response.success = reply.error == 'NONE'
    response.error_code = ERROR_CODES[reply.error]
    response.error_msg = reply.error_msg
    response.choice_index = -1
    response.confidence = math.nan
    response.model = reply.model
    response.queue_s, response.encode_s = reply.queue_s, reply.encode_s
    response.first_token_s, response.total_s = reply.first_token_s, reply.total_s
    if reply.selection is not None:
        window = reply.selection
        response.header = Header(stamp=time_message(window.end_ns), frame_id=base_frame)
        response.window_start = time_message(window.start_ns)
        response.window_end = time_message(window.end_ns)
        response.modalities = _reports(window, reply.weights)
    answer = reply.answer
    if answer is not None:
        response.answer = answer.text
        response.finish_reason = reply.finish_reason
        response.tokens = answer.tokens
        if response.success:
            response.choice_index = -1 if answer.choice_index is None else answer.choice_index
            response.choice_probabilities = [float(p) for p in answer.choice_probabilities]
            if answer.confidence is not None:
                response.confidence = float(answer.confidence)
    return response


def answer_message(request: Any, reply: Reply, base_frame: str, *, streamed: bool) -> Answer:
    """Return what onlookers are told of a question and its reply.

    :param request: of the service, or the action's goal. :param streamed: of the action.
    """
    return fill_answer(Answer(
        question=request.question, asked_modalities=list(request.modalities),
        asked_sources=list(request.sources), at=request.at, conversation=request.conversation,
        choices=list(request.choices), streamed=streamed), reply, base_frame)


def status_message(name: str, level: bytes, text: str, hardware: str,
                   values: Mapping[str, object]) -> DiagnosticStatus:
    """Return one diagnostic status; numbers with at most six digits."""
    return DiagnosticStatus(
        level=level, name=name, message=text, hardware_id=hardware,
        values=[KeyValue(key=k, value=f'{v:.6g}' if isinstance(v, float) else str(v))
                for k, v in values.items()])


def input_status(node: str, health: Health, required: bool, silence_s: float) -> DiagnosticStatus:
    """Return how one input does.

    :param required: windows wait for it: its silence is a warning even before it ever spoke.
    :param silence_s: silent for longer than this is a warning (a CameraInfo may come once).
    """
    level, text = DiagnosticStatus.OK, f'{health.rate_hz:.1f} Hz'
    if health.received and health.errors >= health.received:
        level, text = DiagnosticStatus.ERROR, f'no usable message: {health.last_error}'
    elif health.foreign:
        level, text = DiagnosticStatus.ERROR, f'another clock: {health.offset_s:+.3f} s'
    elif health.incompatible and health.age_s is None:
        level, text = DiagnosticStatus.ERROR, f'QoS: {health.incompatible}'
    elif health.age_s is None:
        level = DiagnosticStatus.WARN if required or health.publishers else DiagnosticStatus.OK
        text = health.mistyped or ('no message yet' if health.publishers else 'no publisher')
    elif health.age_s > silence_s and health.stream != CAMERA_INFO:
        level, text = DiagnosticStatus.WARN, f'silent for {health.age_s:.1f} s'
    elif health.error_age_s is not None and health.error_age_s < _RECENT_S:
        level, text = DiagnosticStatus.WARN, f'{text}, some unusable: {health.last_error}'
    return status_message(f'{node}: {health.stream}', level, text, '', {
        'topics': ', '.join(health.topics), 'publishers': health.publishers, 'qos': health.qos,
        'received': health.received, 'rate_hz': health.rate_hz,
        'age_s': 'never' if health.age_s is None else health.age_s, 'late': health.late,
        'dropped': health.lost, 'conversion_errors': health.errors,
        'last_error': health.last_error, 'clock_offset_s': health.offset_s,
        'stamps': health.stamps, 'incompatible': health.incompatible, 'frame': health.frame})


@dataclass(frozen=True)
class Work:
    """How the thread that computes does now.

    :param doing: what it computes; empty: nothing. :param silent_s: without a sign of life since.
    :param alive: the thread runs. :param stall_s: so long without a sign of life is a warning.
    :param rss: bytes of the process, of which some is not the model's. :param cuda: bytes on GPUs.
    :param paused_s: simulated time has stood still for so long.
    :param backend: what computes, and why.
    """

    doing: str = ''
    silent_s: float = 0.0
    alive: bool = True
    stall_s: float = math.inf
    rss: int = 0
    cuda: int = 0
    paused_s: float = 0.0
    backend: str = ''


def _level(stats: WorkerStats, work: Work, enabled: bool) -> tuple[bytes, str]:
    """Return level and text of the model's status."""
    if not work.alive:
        return DiagnosticStatus.ERROR, ('the thread that computes has ended; deactivate and '
                                        'activate the node')
    if work.doing and work.silent_s > work.stall_s:
        stuck = work.silent_s > 3 * work.stall_s
        return (DiagnosticStatus.ERROR if stuck else DiagnosticStatus.WARN,
                f'{work.doing}: no token for {work.silent_s:.1f} s (stall_s {work.stall_s:g})')
    if not enabled:
        return DiagnosticStatus.OK, 'disabled'
    if stats.failure:
        return DiagnosticStatus.WARN, stats.failure
    if stats.undescribed_s > work.stall_s:
        return DiagnosticStatus.WARN, (
            f'windows come, but none was described for {stats.undescribed_s:.0f} s'
            + (f'; {stats.empty} had nothing that the model could use' if stats.empty else ''))
    if work.paused_s > _PAUSE_S:
        return DiagnosticStatus.OK, f'simulated time has stood still for {work.paused_s:.0f} s'
    return DiagnosticStatus.OK, 'describing' if stats.described else 'waiting for windows'


def _mebi(size: int) -> float:
    return size / (1 << 20)


def engine_status(node: str, model: str, device: str, stats: WorkerStats, work: Work, jumps: int,
                  enabled: bool) -> DiagnosticStatus:
    """Return how the model does."""
    now_s = time.monotonic()
    level, text = _level(stats, work, enabled)
    first, last = stats.kept_span_ns or (0, 0)
    return status_message(f'{node}: model', level, text, device, {
        'model': model, 'device': device, 'backend': work.backend,
        'computing': work.doing or 'nothing',
        'computing_silent_s': work.silent_s, 'described': stats.described,
        'description_age_s': now_s - stats.described_s,
        'undescribed_s': stats.undescribed_s, 'skipped': stats.skipped,
        'interrupted': stats.interrupted, 'empty': stats.empty, 'left_out': stats.left_out,
        'failed': stats.failed, 'last_error': stats.last_error,
        'last_error_age_s': now_s - stats.last_error_s,
        'answered': stats.answered, 'refused': stats.refused,
        'questions_waiting': stats.waiting, 'conversations': stats.conversations,
        'time_jumps': jumps, 'encode_s': stats.encode_s, 'decode_s': stats.decode_s,
        'tokens_per_s': stats.tokens_per_s, 'windows_kept': stats.kept,
        'windows_kept_mb': _mebi(stats.kept_bytes), 'windows_kept_from': f'{first / 1e9:.3f}',
        'windows_kept_to': f'{last / 1e9:.3f}', 'windows_dropped_for_memory': stats.kept_dropped,
        'memory_mb': _mebi(work.rss), 'cuda_memory_mb': _mebi(work.cuda)})
