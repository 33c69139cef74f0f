"""Process settings that must stand before torch or vLLM are imported. Standard library only.

On a machine with few cores, engine, learner and Ray fight over them: OpenMP threads that are pinned and spin made the
same job 3 to 30 times slower. A value that the user has set already is kept.
"""

from __future__ import annotations

import math
import os


def set_engine_env(memory_gb: float) -> None:
    """Set thread and engine variables of this process and its children; `memory_gb` is the key-value cache on CPU.

    vLLM takes whole GiB here, so `memory_gb` is rounded up; pages that are never written cost nothing.
    """
    for name, value in {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(memory_gb))),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the caller's process: a sync is a plain call
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
