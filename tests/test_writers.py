"""Every file is written through `env.files`: no other module opens one for writing or moves one into place."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_layering import modules

SAFE = {"replace_file", "replace_path", "replace_folder"}  # `with` blocks of `env.files`
METHODS = {"write_text", "write_bytes", "savefig", "save_pretrained", "save_to_json", "touch", "rename"}
CALLS = {
    "os.replace", "os.rename", "os.truncate", "shutil.move", "shutil.copy", "shutil.copy2", "shutil.copyfile",
    "shutil.copytree", "torch.save", "np.save", "np.savez", "save_file", "save_model", "save_torch_state_dict",
    "pa.OSFile", "zipfile.ZipFile", "SummaryWriter", "json.dump", "yaml.dump", "pickle.dump",
}  # fmt: skip
# Module and call -> the reason why it writes outside of such a block.
ALLOWED = {
    ("env.files", "*"): "is the writer",
    ("env.node_cache", "np.save"): "frames in shared memory, which a restart makes again",
    ("env.node_cache", "open"): "the same",
    ("env.node_cache", "draft.replace"): "the same",
    ("cot_data.formats.mask_rows", "pa.OSFile"): "writes the draft that `mask_table` replaces the table by",
    ("configs.prompt_file", "yaml.dump"): "returns a text",
    ("policy.videoseg.checkpoint", "save_pretrained"): "`save_policy` fills what its callers replace as a whole",
    ("policy.convert_sa2va", "save_pretrained"): "`write_released` fills what its caller replaces",
    ("policy.convert_sa2va", "save_torch_state_dict"): "the same",
    ("cot_data.moving_shapes.generate", "Image.save"): "frames, flushed together before the file that makes them a set",
    ("rl.runtime.archive", "rename"): "moves whole files of an earlier run away",
    ("rl.runtime.cluster", "os.fdopen"): "Ray's token, outside of any run, with its own permissions",
}  # fmt: skip


def writes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of every call that writes a file outside of the safe blocks."""
    safe: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any(_name(item.context_expr) in SAFE for item in node.items):
            safe.update(part for inner in (*node.items, *node.body) for part in ast.walk(inner))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in safe and (name := _writes(node)):
            yield node.lineno, name


def _name(node: ast.expr) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _writes(call: ast.Call) -> str:
    """Return the name of a call that writes a file; empty if it does not."""
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if last in ("open", "fdopen") and any(mode in _mode(call) for mode in "wax+"):
        return "os.fdopen" if last == "fdopen" else "open"
    if name in CALLS and not (last == "ZipFile" and _mode(call) in ("", "r")):
        return name
    if isinstance(call.func, ast.Attribute) and last in METHODS:
        return last
    if isinstance(call.func, ast.Attribute) and last == "save" and name != "family.save" and "Image" in name:
        return "Image.save"
    if last == "replace" and len(call.args) == 1 and not call.keywords:
        return name  # of a path; that of a text has two arguments
    return ""


def _mode(call: ast.Call) -> str:
    texts = [each for each in (*call.args, *(word.value for word in call.keywords)) if isinstance(each, ast.Constant)]
    return next((each.value for each in texts if isinstance(each.value, str) and len(each.value) <= 3), "")


def test_nobody_else_writes_files():
    found = {
        f"{module}:{line}: {name}"
        for module, tree in modules().items()
        for line, name in writes(tree)
        if not {(module, name), (module, "*")} & ALLOWED.keys()
    }
    assert found == set(), "write it through env.files, or name it in ALLOWED with the reason"


def test_the_list_of_exceptions_is_no_longer_than_needed():
    trees = modules()
    for module, name in ALLOWED:
        assert name == "*" or name in {found for _, found in writes(trees[module])}, (module, name)


def test_planted_writes_are_seen():
    for line in (
        "open(path, 'w')", "path.open('ab')", "path.write_text(text)", "os.replace(a, b)", "draft.replace(path)",
        "torch.save(state, path)", "save_file(weights, path)", "figure.savefig(path)", "shutil.copyfile(a, b)",
        "Image.fromarray(a).save(path)", "zipfile.ZipFile(path, 'w')", "open(path, mode='x')",
    ):  # fmt: skip
        assert len(list(writes(ast.parse(line)))) == 1, line
    for line in (
        "open(path)", "path.open('rb')", "write_text(path, text)", "text.replace('a', 'b')", "replace(config, a=1)",
        "with replace_path(path) as draft:\n    torch.save(state, draft)", "zipfile.ZipFile(path)",
    ):  # fmt: skip
        assert list(writes(ast.parse(line))) == [], line
