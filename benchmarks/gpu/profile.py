"""What a profile says: the time of each kind of kernel, and how long the device was idle."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

# The first that is found in a kernel's name, without regard to case.
KINDS = (
    ("attention", r"flash|fmha|_CpuAttention|bmm"),
    ("matrix products", r"gemm|cutlass|nvjet|xmma|cublas|addmm|::mm"),
    ("optimizer", r"adam|multi_tensor"),
    ("dropout", r"dropout|random_|_masked"),
    ("layer norm", r"layer_?norm|gammabeta"),
    ("GELU", r"gelu"),
    ("embedding", r"embedding|index|gather|scatter"),
    ("copies", r"memcpy|memset|copy|cat|fill"),
    ("reductions", r"reduce|norm|softmax"),
    ("other elementwise", r"elementwise|add|mul|div"),
)
WAITS = re.compile(r"cuda(Stream|Device|Event)Synchronize|cudaMemcpy$")


def kind_of(kernel: str) -> str:
    return next(
        (kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "other"
    )


def summary(events: Iterable[Any], cuda: bool) -> dict[str, Any]:
    """Figures of a torch profiler's events: of kernels on a GPU, on the CPU of operations.

    `milliseconds` by kind, the same in `percent`, `idle_percent` of the time from the first kernel
    to the last, the `longest` kernels, and how many `waits` the host made.
    """
    from torch.autograd import DeviceType

    events = list(events)
    kernels = [
        event
        for event in events
        if (event.device_type == DeviceType.CUDA) == cuda
        and not getattr(event, "is_user_annotation", False)
        and not event.name.startswith(("ProfilerStep", "aten::to"))
    ]
    times: Counter[str] = Counter()
    by_name: Counter[str] = Counter()
    for event in kernels:
        took = event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
        times[kind_of(event.name)] += took / 1e3
        by_name[event.name] += took / 1e3
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernels)
    busy, end = 0.0, spans[0][0] if spans else 0.0
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    window = end - spans[0][0] if spans else 0.0
    total = sum(times.values()) or 1.0
    return {
        "milliseconds": {kind: round(time, 3) for kind, time in times.most_common()},
        "percent": {kind: round(100 * time / total, 1) for kind, time in times.most_common()},
        "idle_percent": round(100 * (1 - busy / window), 1) if window else None,
        "longest": [[name[:120], round(time, 3)] for name, time in by_name.most_common(20)],
        "waits": sum(bool(WAITS.match(event.name)) for event in events),
    }
