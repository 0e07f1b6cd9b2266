"""A run: one folder under `outputs/` where the notebooks meet, and the processes that work for one.

Notebooks hand each other files, never variables. What a notebook makes is an *artefact*: either a folder (`corpus`, with
`corpus/manifest.json`) or a few files with one stem (`embeddings/raw`: `raw.npy` and, as its manifest, `raw.json`). The
manifest is written last: settings, content hashes of the artefacts it was made from, hashes of its own files, the record
(the numbers worth keeping) and a hash over all of that. So an artefact either is complete or does not exist, a stage whose
settings and inputs did not change is reused, and a damaged file or manifest is named.

Where the outputs folder holds a `.store`, its runs share what they make: an artefact is looked up there by its name,
settings and inputs' hashes before it is built, and linked into the run. A grid has one.
"""

from __future__ import annotations

from llm2rec_kit.runs.errors import MADE_BY, ArtefactError, one_paragraph_errors
from llm2rec_kit.runs.info import collect_provenance
from llm2rec_kit.runs.places import check_name, find_outputs
from llm2rec_kit.runs.records import RECORD_MIME, read_records, show_record, show_records
from llm2rec_kit.runs.run import Run, find, find_begun
from llm2rec_kit.runs.series import FORCED, SERIES
from llm2rec_kit.runs.store import STORE
from llm2rec_kit.storage import hash_file, write_json

__all__ = [
    "FORCED",
    "MADE_BY",
    "RECORD_MIME",
    "SERIES",
    "STORE",
    "ArtefactError",
    "Run",
    "check_name",
    "collect_provenance",
    "find",
    "find_begun",
    "find_outputs",
    "hash_file",
    "one_paragraph_errors",
    "read_records",
    "show_record",
    "show_records",
    "write_json",
]
