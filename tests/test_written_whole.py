"""Every file that the kit writes goes through `storage.write_whole`, so that no crash and no full disk cuts what stood there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "llm2rec_kit"
WRITERS = {
    *("write_text", "write_bytes", "write_csv", "write_parquet", "write_ndjson", "savefig", "savetxt", "tofile", "touch"),
    *("copy2", "copyfile", "copyfileobj", "copytree", "move", "save_file", "save_pretrained", "write_html"),
}
OF_MODULE = {"os": {"replace", "rename"}, "np": {"save", "savez", "memmap"}, "shutil": {"copy"}, "torch": {"save"}}
# Functions that write otherwise, and why each may.
ALLOWED = {
    "storage.write_whole": "the one way",
    "storage.write_whole_folder": "the one way, for folders",
    "storage._replace_contents": "its hidden folder, when all is written",
    "storage.hold_lock": "a lock, without content",
    "storage.check_writable": "a probe, removed at once",
    "storage.set_aside": "a damaged file, renamed",
    "storage.npy_writer.RowFile.finish": "its own hidden file, flushed block by block",
    "storage.npy_writer.RowFile._open": "the same",
    "reproduction.runner.launch.make": "to nowhere, what processes but the first print",
    "training.samples._save": "a hidden folder, renamed when whole",
    "fitting.history.write_history": "a build's folder",
    "models.backbone.save": "a build's folder, or an export's",
    "corpus.Corpus.save": "a build's folder",
    "downstream.cold._keep.build": "a build's folder",
    "pipeline.embed_minilm.build": "a build's folder",
    "evaluating._write_tests": "a build's folder",
    "pipeline.read_own_table.build": "a build's folder",
    "downstream.evaluation.write": "a build's folder",
    "downstream.evaluation.write_ranking": "a build's folder",
    "maps.atlas.write": "a build's folder",
    "runs.run.Run.link_from": "a hidden folder, renamed when whole",
    "runs.run.Run._settle": "a build's folder becomes the artefact, manifest last",
    "export.formats.export_npy": "an export's hidden folder",
    "export.recommender_files.export_recommender": "an export's hidden folder",
    "export.recommender_files.export_adapted": "an export's hidden folder",
    "export.recommender_files.write_adapter": "an export's hidden folder",
    "export.recommender_files.write_items": "an export's hidden folder",
    "export.formats.export_recbole": "an export's hidden folder",
    "storage.tab_separated.write": "to a path that write_whole or write_whole_folder gave",
    "export.llm2rec_files._write_csv": "an export's hidden folder",
    "export.llm2rec_files._lines": "an export's hidden folder",
    "figures.report_figures.render_svg": "in memory",
    "figures.report_figures.render_png": "in memory",
    "reproduction.grid.graph._run_node": "a mark without content, and a log that grows",
    "runs.meter._reset_high_water": "the kernel's counter of this process",
    "models.gguf.fit": "a temporary folder",
    "models.fetching._download": "a hidden folder, renamed when whole",
    "models.fetching._taken_out": "a hidden folder, renamed when whole",
}


def bare_writes(source: str, module: str) -> set[str]:
    """Names (module.function) of the functions that write files by themselves: not to what `with write_whole(...) as part` gave."""
    found = set()

    def visit(node: ast.AST, name: str, given: frozenset[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{name}.{node.name}"
        if isinstance(node, ast.With):
            calls = [i for i in node.items if isinstance(i.context_expr, ast.Call) and isinstance(i.optional_vars, ast.Name)]
            given |= {i.optional_vars.id for i in calls if ast.unparse(i.context_expr.func).endswith("write_whole")}
        if isinstance(node, ast.Call) and writes(node) and not touched(node) & given:
            found.add(name)
        for child in ast.iter_child_nodes(node):
            visit(child, name, given)

    visit(ast.parse(source), module, frozenset())
    return found


def touched(call: ast.Call) -> set[str]:
    """Names that a call is given, or is a method of."""
    said = [call.func.value] if isinstance(call.func, ast.Attribute) else []
    return {node.id for node in (*said, *call.args) if isinstance(node, ast.Name)}


def writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
    if name in ("open", "fdopen"):
        modes = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
        flags = ast.unparse(call)
        return (
            any(isinstance(m, str) and set(m) <= set("rwaxbt+") and set(m) & set("wax+") for m in modes)
            or "O_CREAT" in flags
        )
    if name in OF_MODULE.get(of, ()):
        return True
    return name in WRITERS and of != "storage" and (isinstance(call.func, ast.Attribute) or name == "save_file")


def test_nothing_writes_files_by_itself():
    found = set()
    for file in ROOT.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found |= bare_writes(file.read_text(), module)
    downloads = {name for name in found if name.startswith("data.sources.downloads.")}  # parts that grow, renamed when whole
    assert found - downloads == set(ALLOWED)


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ("path.write_text('x')", True),
        ("storage.write_text(path, 'x')", False),
        ("write_text(path, 'x')", False),
        ("path.open('w')", True),
        ("open(path, mode='ab')", True),
        ("path.open('rb')", False),
        ("np.save(path, a)", True),
        ("table.write_parquet(path)", True),
        ("with write_whole(path) as part:\n        table.write_parquet(part)", False),
        ("with write_whole(path) as part:\n        table.write_parquet(path)", True),
        ("with storage.write_whole(path) as part:\n        part.write_bytes(b'')", False),
        ("figure.savefig(path)", True),
        ("os.replace(a, b)", True),
        ("text.replace(a, b)", False),
    ],
)
def test_the_rule_sees_a_bare_write(line, bare):
    assert bare_writes(f"def f(path):\n    {line}", "m") == ({"m.f"} if bare else set())
