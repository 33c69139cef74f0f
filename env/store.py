"""The trajectory store: two append-only JSON-lines files in a folder, written by training, evaluation and prediction.

`tasks.jsonl` holds every task once. Each line of `trajectories.jsonl` holds a trajectory and the id of its task. One
process may write at a time. Reading needs no torch. The store opens as a table with
`datasets.load_dataset("json", data_files=".../trajectories.jsonl")`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from configs.plain_text import plain
from env.errors import DataError
from env.files import append_lines, keep_lines, make_folder, read_lines
from env.json_text import check_surrogates, parse_json
from env.rows import Row, check_version, take, task_from_row, task_to_row, trajectory_from_row, trajectory_to_row
from env.types import StopReason, Task, Trajectory

__all__ = ["TrajectoryStore", "task_from_row", "task_to_row", "trajectory_from_row", "trajectory_to_row"]

_Value = TypeVar("_Value")


class TrajectoryStore:
    """The store in `folder`. The first append makes the folder."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.tasks_path = self.folder / "tasks.jsonl"
        self.trajectories_path = self.folder / "trajectories.jsonl"
        self._task_lines: dict[str, int] | None = None  # task id -> hash of its content; None: not read yet
        self._trajectory_ids: set[str] = set()

    def append(self, trajectories: Sequence[Trajectory]) -> None:
        """Write trajectories and their new tasks to disk.

        Raises:
            DataError: The store has this trajectory id, or another task under a task's id, or a number is not finite;
                nothing is written.
            MachineError: The disk is full, or the like. Earlier trajectories can still be read, and the next append
                cuts off the unfinished line.
        """
        known = self._known_tasks()
        tasks: dict[str, str] = {}
        lines: dict[str, str] = {}
        for trajectory in trajectories:
            where = f"trajectory {trajectory.trajectory_id}"
            if trajectory.trajectory_id in self._trajectory_ids or trajectory.trajectory_id in lines:
                raise DataError(where, f"is already in {self.trajectories_path}; ids must be unique")
            lines[trajectory.trajectory_id] = _line(where, trajectory_to_row, trajectory)
            task_id = trajectory.task.task_id
            task = _line(f"task {task_id}", task_to_row, trajectory.task)
            content = _content(trajectory.task)
            if known.get(task_id, content) != content or tasks.setdefault(task_id, task) != task:
                raise DataError(f"task {task_id}", f"differs from that in {self.tasks_path}; write to another folder")
        make_folder(self.folder)
        # Tasks first: a writer killed in between leaves a task without trajectories, never the reverse.
        append_lines(self.tasks_path, [line for task_id, line in tasks.items() if task_id not in known])
        append_lines(self.trajectories_path, list(lines.values()))
        known.update({item.task.task_id: _content(item.task) for item in trajectories})
        self._trajectory_ids.update(lines)

    def read(self) -> Iterator[Trajectory]:
        """Yield all trajectories in the order of writing. Those that are written after the call are not seen.

        An unfinished last line (its writer was killed) is skipped with a warning. DataError names file and line.
        """
        trajectories_size = _size(self.trajectories_path)  # before the tasks, so that every task named is there
        tasks = self.tasks()
        for where, line in read_lines(self.trajectories_path, trajectories_size):
            yield _parse(where, line, lambda row: trajectory_from_row(row, tasks))

    def tasks(self) -> dict[str, Task]:
        """Return the stored tasks by id."""
        rows = read_lines(self.tasks_path, _size(self.tasks_path))
        found = (_parse(where, line, task_from_row) for where, line in rows)
        return {task.task_id: task for task in found}

    def accepts(self, task: Task) -> bool:
        """Return whether trajectories of this task could be appended: no other task is stored under its id."""
        return self._known_tasks().get(task.task_id, _content(task)) == _content(task)

    def drop_from(self, step: int) -> None:
        """Remove the trajectories of `step` and later, and tasks that no other names; they can then be written again.

        Each file is replaced at once. A process that is killed in between leaves tasks without trajectories, which is
        fine.
        """
        tasks = set()

        def stays(row: Row) -> bool:
            if take(row, "step", int) >= step:
                return False
            tasks.add(take(row, "task_id", str))
            return True

        _keep_rows(self.trajectories_path, stays)
        _keep_rows(self.tasks_path, lambda row: take(row, "task_id", str) in tasks)
        self._task_lines = None

    def drop_errors(self) -> None:
        """Remove trajectories that ended in an error, so that they can be tried again."""
        if any(trajectory.stop_reason is StopReason.ERROR for trajectory in self.read()):
            _keep_rows(self.trajectories_path, lambda row: take(row, "stop_reason", str) != StopReason.ERROR)
            self._task_lines = None

    def _known_tasks(self) -> dict[str, int]:
        """Return hashes of the stored tasks' lines by id; the first call reads the files."""
        if self._task_lines is None:
            self._task_lines = {}
            for where, line in read_lines(self.tasks_path, _size(self.tasks_path)):
                task = _parse(where, line, task_from_row)
                self._task_lines[task.task_id] = _content(task)
            self._trajectory_ids = {
                _parse(where, line, lambda row: take(row, "trajectory_id", str))
                for where, line in read_lines(self.trajectories_path, _size(self.trajectories_path))
            }
        return self._task_lines


def _content(task: Task) -> int:
    """Return a hash of a task as this version writes it, without the folder of its data, which may move."""
    row = task_to_row(task)
    return hash(json.dumps({**row, "video": {**row["video"], "root": ""}}))


def _line(where: str, to_row: Callable[[_Value], Row], value: _Value) -> str:
    """Return one line of a store. DataError for what no reader takes: NaN, and half of a surrogate pair."""
    try:
        row = to_row(value)
        line = json.dumps(row, allow_nan=False, separators=(",", ":"))
        check_surrogates(row, line)
        return line + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(where, f"cannot be stored ({error})") from error


def _parse(where: str, line: bytes, from_row: Callable[[Row], _Value]) -> _Value:
    try:
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ValueError(f"expected a JSON object, found {type(row).__name__}")
        check_version(row)
        return from_row(row)
    except ValueError as error:
        raise DataError(where, plain(str(error))) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _keep_rows(path: Path, stays: Callable[[Row], bool]) -> None:
    """Keep only the lines of a file whose rows stay."""
    keep_lines(path, lambda where, line: _parse(where, line, stays))
