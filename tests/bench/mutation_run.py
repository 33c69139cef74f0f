"""Plant small faults in the program one at a time and count those that the tests notice.

    python -m tests.bench.mutation_run --number 200 --seed 0 --out runs/mutations.jsonl

A fault changes one operator, number, condition, argument or statement of a module in `TESTS`, in memory only. A forked
process imports the changed module and runs the tests beside it until one fails. A fault that no test notices survives:
either a test is missing, or the change makes no difference that anyone could see (a cache, a buffer's size). The file
gets a line for each fault, and a second call goes on behind the last.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Modules (as glob patterns) and the tests that stand for them, the fast ones first.
TESTS: dict[str, list[str]] = {
    "rewards/*.py": ["tests/rewards"],
    "env/*.py": ["tests/env", "tests/cot_data/test_check.py", "tests/cot_data/formats"],
    "env/tools/*.py": ["tests/env"],
    "env/media/*.py": ["tests/env", "tests/cot_data"],
    "rl/learner/*.py": ["tests/rl/learner", "tests/rl/rollout/test_oversampling.py"],
    "rl/rollout/dispatcher.py": ["tests/rl/rollout/test_dispatcher.py", "tests/rl/rollout/test_pool.py"],
    "rl/rollout/task_stream.py": ["tests/rl/rollout/test_task_stream.py", "tests/rl/rollout/test_dynamic_sampling.py"],
    "rl/benchmarks/*.py": ["tests/rl/benchmarks"],
    "rl/runtime/checkpoint.py": ["tests/rl/runtime", "tests/policy/test_checkpoint.py", "tests/rl/test_bad_input.py"],
    "policy/checkpoint_io.py": ["tests/policy/test_checkpoint.py", "tests/policy/test_convert_sa2va.py"],
}
SWAPS: dict[type[ast.AST], Any] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin", "sum": "max"}


@dataclass(frozen=True)
class Fault:
    """One change of one module."""

    module: str  # path below the root of the tree
    line: int
    before: str  # the expression or statement that is changed
    at: int  # position of the change among all changes of the module


def changes(tree: ast.AST) -> Iterator[tuple[ast.AST, Callable[[], None]]]:
    """Yield every node that can be changed, with a function that changes it in place, in a fixed order."""
    for node in _reachable(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, partial(setattr, node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])
        elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS and not _is_text(node):
            yield node, partial(setattr, node, "op", SWAPS[type(node.op)]())
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, partial(setattr, node, "value", not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, partial(setattr, node, "value", node.value + 1)
        elif isinstance(node, ast.Name) and node.id in NAMES:
            yield node, partial(setattr, node, "id", NAMES[node.id])
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield node, partial(setattr, node, "attr", NAMES[node.attr])
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node.test, partial(setattr, node, "test", ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, partial(setattr, node, "value", ast.Constant(None))


def _reachable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below `node`, without annotations, errors and checks for the type checker."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr):
                yield from _reachable(child)


def _is_text(node: ast.BinOp | ast.BoolOp) -> bool:
    parts = [node.left, node.right] if isinstance(node, ast.BinOp) else node.values
    return any(isinstance(part, ast.JoinedStr | ast.List) or isinstance(_constant(part), str) for part in parts)


def _constant(node: ast.AST) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def faults_of(module: Path) -> list[Fault]:
    """Return all faults that can be planted in a module."""
    source = module.read_text(encoding="utf-8")
    found = []
    for at, (node, _) in enumerate(changes(ast.parse(source))):
        before = ast.unparse(node)
        line = getattr(node, "lineno", 0)
        found.append(Fault(str(module.relative_to(ROOT)), line, before[:100], at))
    return found


def planted(source: str, at: int) -> str:
    """Return a module's source with the change at that position."""
    tree = ast.parse(source)
    _, change = list(changes(tree))[at]
    change()
    return ast.unparse(ast.fix_missing_locations(tree))


class _Planter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An importer that puts the changed source in place of one module."""

    def __init__(self, fault: Fault):
        self.path = ROOT / fault.module
        self.name = fault.module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.source = planted(self.path.read_text(encoding="utf-8"), fault.at)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        is_package = self.path.name == "__init__.py"
        spec = importlib.util.spec_from_loader(fullname, self, origin=str(self.path), is_package=is_package)
        assert spec is not None
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [str(self.path.parent)]
        return spec

    def exec_module(self, module: Any) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def is_noticed(fault: Fault, tests: Sequence[str], seconds: float) -> str:
    """Run the tests on the changed module in a forked process.

    Args:
        fault: The change.
        tests: Files and folders of tests.
        seconds: A run that takes longer counts as noticed: the change made it endless.

    Returns:
        "failed", "hung", or "survived".
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        _run_tests(fault, tests)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def _run_tests(fault: Fault, tests: Sequence[str]) -> None:
    """Run pytest and end this process with its exit status, without a word on the terminal."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        import pytest

        sys.meta_path.insert(0, _Planter(fault))
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
    except BaseException:  # a change that breaks the import itself is noticed as well
        status = 1
    os._exit(status)


def choose(number: int, seed: int) -> list[tuple[Fault, list[str]]]:
    """Return faults with their tests; each group of modules gets a share by the number of its possible faults."""
    every = [
        (fault, tests)
        for pattern, tests in TESTS.items()
        for module in sorted(ROOT.glob(pattern))
        for fault in faults_of(module)
    ]
    return random.Random(seed).sample(every, min(number, len(every)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Plant faults and count those that the tests notice.")
    parser.add_argument("--number", type=int, default=200, help="faults to plant (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=400.0, help="limit for one fault (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only modules whose path holds this text")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("K", "N"), help="every Nth from K on")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one for each fault")
    args = parser.parse_args()
    import torch  # noqa: F401  # before the forks, so that each of them begins with it
    import transformers  # noqa: F401

    args.out.parent.mkdir(parents=True, exist_ok=True)
    old = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(row["module"], row["at"]) for row in old}
    results = [row["result"] for row in old]
    chosen = [pair for pair in choose(args.number, args.seed) if args.only in pair[0].module]
    for fault, tests in chosen[args.part[0] :: args.part[1]]:
        if (fault.module, fault.at) in done:
            continue
        begin = time.monotonic()
        result = is_noticed(fault, tests, args.seconds)
        results.append(result)
        row = asdict(fault) | {"result": result, "seconds": round(time.monotonic() - begin, 1)}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        noticed = sum(each != "survived" for each in results)
        print(f"{noticed} of {len(results)} noticed; {result}: {fault.module}:{fault.line} {fault.before}", flush=True)


if __name__ == "__main__":
    main()
