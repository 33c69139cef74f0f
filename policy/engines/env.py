"""Process settings that must stand before torch or vLLM are imported. Standard library only.

On a machine with few cores, engine, learner and Ray fight over them: OpenMP threads that are pinned and spin made the
same job 3 to 30 times slower. A value that the user has set already is kept.
"""

from __future__ import annotations

import os

ENGINE_ENV = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the caller's process: a weight sync is a plain call
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def set_engine_env() -> None:
    """Set thread and engine variables of this process and its children."""
    for name, value in ENGINE_ENV.items():
        os.environ.setdefault(name, value)
