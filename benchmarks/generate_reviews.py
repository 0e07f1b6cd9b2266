"""Generate reviews in the form of Amazon Reviews 2023, as many as wanted, the same for the same seed.

    python benchmarks/generate_reviews.py 2000000 /tmp/reviews --gz

writes `Generated.jsonl[.gz]` and `meta_Generated.jsonl[.gz]`: the ten fields of a real review line, in its order, with ids of
the true lengths (28 and 10 characters) and about 2.9 reviews a user and 18 an item, as Home and Kitchen has (67.4 million
reviews, 23.2 million users, 3.7 million items). Who reviews what is drawn from two power laws, so that a 5-core exists.
What is not like the real files: reviews stand in random order, which is the worst case for the caches of whoever reads
them, and texts are shorter (`--words`), so that 50 million fit on a small disk.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import polars as pl

BLOCK = 500_000  # reviews written at a time
SYLLABLES = ["ba", "ron", "tel", "mi", "so", "ga", "len", "dor", "pi", "ka", "stu", "ve", "lo", "fen", "ri", "shu"]
FIRST, LAST = 946_684_800_000, 1_694_000_000_000  # milliseconds since 1970: 2000-01-01, 2023-09-06
LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", dtype=np.uint8)
SKEW_USERS, SKEW_ITEMS = 2.2, 3.0  # rank = n * uniform ** skew: the larger, the more unequal


def main() -> None:
    """Write both files and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reviews", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gz", action="store_true", help="gzip level 1 instead of plain text")
    parser.add_argument("--words", type=int, default=4, help="words of a review's title and of its text, on average")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    made = generate(args.reviews, args.folder, gz=args.gz, words=args.words, seed=args.seed)
    seconds = time.perf_counter() - began
    sizes = ", ".join(f"{p.name} {p.stat().st_size / 1e9:.2f} GB" for p in made)
    print(f"{args.reviews:,} reviews in {seconds:.0f} s: {sizes}")


def generate(reviews: int, folder: Path, *, gz: bool = False, words: int = 4, seed: int = 0) -> tuple[Path, Path]:
    """Write `Generated.jsonl[.gz]` and `meta_Generated.jsonl[.gz]` into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    users, items = max(5, int(reviews / 2.9)), max(5, reviews // 18)
    texts = _texts(words, seed)
    ending = ".jsonl.gz" if gz else ".jsonl"
    path, meta = folder / f"Generated{ending}", folder / f"meta_Generated{ending}"
    with _open(path) as file:
        for start in range(0, reviews, BLOCK):
            block = _reviews(min(BLOCK, reviews - start), users, items, texts, [seed, 1, start])
            block.write_csv(file, include_header=False, quote_style="never")
    with _open(meta) as file:
        for start in range(0, items, BLOCK):
            codes = np.arange(start, min(items, start + BLOCK))
            _metadata(codes, seed).write_csv(file, include_header=False, quote_style="never")
    return path, meta


def _open(path: Path):
    return gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) if path.suffix == ".gz" else path.open("wb")


def _reviews(n: int, users: int, items: int, texts: pl.Series, seed: list[int]) -> pl.DataFrame:
    """One column of n JSON lines."""
    rng = np.random.default_rng(seed)
    user = (users * rng.random(n) ** SKEW_USERS).astype(np.int64)
    item = (items * rng.random(n) ** SKEW_ITEMS).astype(np.int64)
    variant = np.where(rng.random(n) < 0.3, item + items * rng.integers(1, 4, n), item)  # a colour or size of the item
    when = (FIRST + (LAST - FIRST) * rng.random(n) ** 0.4).astype(np.int64)  # reviews become more with the years
    frame = pl.DataFrame(
        {
            "rating": rng.choice([1, 2, 3, 4, 5], n, p=[0.1, 0.05, 0.08, 0.15, 0.62]),
            "title": texts.gather(rng.integers(0, len(texts) // 2, n)),
            "text": texts.gather(rng.integers(0, len(texts), n)),
            "asin": _ids(variant, 10, b"B0"),
            "parent": _ids(item, 10, b"B0"),
            "user": _ids(user, 28, b"A"),
            "when": when,
            "votes": rng.geometric(0.7, n) - 1,
            "bought": np.where(rng.random(n) < 0.9, "true", "false"),
        }
    )
    line = (
        '{"rating": {}.0, "title": "{}", "text": "{}", "images": [], "asin": "{}", "parent_asin": "{}", '
        '"user_id": "{}", "timestamp": {}, "helpful_vote": {}, "verified_purchase": {}}'
    )
    return frame.select(_filled(line, frame.columns))


def _metadata(codes: np.ndarray, seed: int) -> pl.DataFrame:
    """One column of a JSON line an item: titles of 3 to 9 words, every 200th without one."""
    rng = np.random.default_rng([seed, 2, int(codes[0])])
    pool = _texts(6, seed + 1)
    frame = pl.DataFrame(
        {
            "title": pool.gather(rng.integers(0, len(pool), len(codes))),
            "number": codes,
            "rating": rng.integers(10, 50, len(codes)) / 10,
            "votes": rng.integers(1, 5000, len(codes)),
            "store": pool.gather(rng.integers(0, 500, len(codes))),
            "parent": _ids(codes, 10, b"B0"),
        }
    )
    frame = frame.with_columns(
        title=pl.when(pl.col("number") % 200 == 7).then(pl.lit("null")).otherwise(pl.format('"{} {}"', "title", "number"))
    )
    line = (
        '{"main_category": "Generated", "title": {}, "average_rating": {}, "rating_number": {}, "features": [], '
        '"description": ["Made up."], "price": null, "images": [], "videos": [], "store": "{}", '
        '"categories": ["Generated", "Things"], "details": {"Colour": "Blue"}, "parent_asin": "{}", "bought_together": null}'
    )
    return frame.select(_filled(line, ["title", "rating", "votes", "store", "parent"]))


def _filled(line: str, columns: list[str]) -> pl.Expr:
    """`line` with each `{}` replaced by a column; other braces stay."""
    parts = line.split("{}")
    pieces = [e for part, c in zip(parts, columns, strict=False) for e in (pl.lit(part), pl.col(c).cast(pl.String))]
    return pl.concat_str([*pieces, pl.lit(parts[-1])]).alias("line")


def _ids(codes: np.ndarray, length: int, prefix: bytes) -> pl.Series:
    """Ids of `length` characters, one to one with codes below 2**35: seven base-32 digits of the code, then mixed ones."""
    out = np.empty((len(codes), length), dtype=np.uint8)
    out[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    mixed = codes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for k in range(length - len(prefix)):
        digits = (codes >> (5 * k)) & 31 if k < 7 else (mixed >> np.uint64((k * 7) % 59)).astype(np.int64) & 31
        out[:, len(prefix) + k] = LETTERS[digits]
    # A line break after each id lets one call cut the whole block into strings.
    lines = np.concatenate([out, np.full((len(out), 1), ord("\n"), dtype=np.uint8)], axis=1)
    return pl.Series(lines.tobytes().decode("ascii").split("\n")[:-1])


def _texts(words: int, seed: int) -> pl.Series:
    """4,000 made-up sentences, a few of them with what real ones hold: escapes, line breaks as HTML, other alphabets."""
    rng = np.random.default_rng([seed, 0])
    vocabulary = ["".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(3000)]
    lengths = np.minimum(1 + rng.geometric(1 / max(1, words - 1), 4000), 8 * words)
    sentences = [" ".join(rng.choice(vocabulary, k)) for k in lengths]
    marked = ['a \\"quoted\\" word', "<br />", "caf\\u00e9", "好", "it’s \\ud83d\\ude0b"]
    for k in range(0, 4000, 40):
        sentences[k] += " " + marked[k // 40 % len(marked)]
    return pl.Series(sentences)


if __name__ == "__main__":
    main()
