"""Runs random pipelines over random files with the real program, and compares every table with DuckDB's batch query.

    differential.py PROGRAM [--seed N] [--rounds N] [--seconds N] [--keep]

For each round: the tables are the same with 1, 2 and 4 workers, bit for bit; they are what DuckDB computes from the
same readings; and the view's SELECT over the stored history gives the same rows. Every third round lets readings be
late, and counts instead: those in windows and those kept as late are all. Ends with 1 at the first difference, and
prints the seed that shows it again.
"""

import argparse
import collections
import concurrent.futures
import csv
import datetime
import json
import math
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import deltalake
import duckdb
import pyarrow
import pyarrow.parquet

from pipelines import EPOCH, MICROSECOND, Data, Pipeline

TYPES = {"text": "VARCHAR", "int": "BIGINT", "big": "BIGINT", "dbl": "DOUBLE", "bool": "BOOLEAN", "date": "DATE", "ts": "TIMESTAMP"}
ARROW = {"text": pyarrow.string(), "int": pyarrow.int64(), "big": pyarrow.int64(), "dbl": pyarrow.float64(),
         "bool": pyarrow.bool_(), "date": pyarrow.date32(), "ts": pyarrow.timestamp("us", "UTC")}
WRAPPED = (
    "CREATE MACRO wrapped(s) AS CAST(((s + 9223372036854775808::HUGEINT) % 18446744073709551616::HUGEINT + "
    "18446744073709551616::HUGEINT) % 18446744073709551616::HUGEINT - 9223372036854775808::HUGEINT AS BIGINT)"
)


class Difference(Exception):
    """What is not as it must be."""


def instant(us):
    return EPOCH + us * MICROSECOND


def write_files(folder, data):
    """Writes the readings as the source will find them."""
    folder.mkdir()
    for number, rows in enumerate(data.files):
        stem = folder / f"part_{number}"
        if data.form == "json":
            lines = (json.dumps({k: as_text(v, k) for k, v in row.items()}, ensure_ascii=number == 0) for row in rows)
            stem.with_suffix(".ndjson").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        elif data.form == "csv":
            with open(stem.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(Data.COLUMNS)
                writer.writerows([as_text(row[name], name) for name in Data.COLUMNS] for row in rows)
        else:
            arrays = [
                pyarrow.array([row[name] for row in rows], ARROW[kind]) for name, kind in Data.COLUMNS.items()
            ]
            pyarrow.parquet.write_table(pyarrow.table(arrays, list(Data.COLUMNS)), stem.with_suffix(".parquet"))


def as_text(value, name):
    if name == "ts":
        return instant(value).isoformat() + "Z"
    return value.isoformat() if isinstance(value, datetime.date) else value


def by_duckdb(data, pipeline):
    """Returns the rows of every view, computed at once over all readings."""
    judge = duckdb.connect(config={"threads": 1})
    judge.execute("SET TimeZone = 'UTC'")
    judge.execute(WRAPPED)
    arrays = {
        name: pyarrow.array(
            [row[name] for rows in data.files for row in rows], pyarrow.timestamp("us") if kind == "ts" else ARROW[kind]
        )
        for name, kind in Data.COLUMNS.items()
    }
    judge.register("arrived", pyarrow.table(arrays))
    judge.execute("CREATE TABLE readings AS SELECT * FROM arrived")
    tables = {}
    for view in pipeline.views:
        name, columns = view.relation.name, view.relation.columns
        cast = ", ".join(f"CAST({column} AS {TYPES[kind]}) AS {column}" for column, kind in columns.items())
        judge.execute(f"CREATE TABLE {name} AS SELECT {cast} FROM ({view.theirs})")
        tables[name] = [tuple(map(plain, row)) for row in judge.execute(f"SELECT * FROM {name}").fetchall()]
    return tables


def plain(value):
    if isinstance(value, datetime.datetime):
        return (value.replace(tzinfo=None) - EPOCH) // MICROSECOND
    return value.isoformat() if isinstance(value, datetime.date) else value


def run(program, folder, workers):
    """Runs the pipeline to its end; returns the data folder."""
    name = f"data_{workers}"
    words = [program, "run", "--data", name, "--workers", str(workers), "pipeline.sql"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Difference(f"{workers} workers: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return folder / name


def table(data_folder, name, columns):
    """Returns the rows of a table, listed by deltalake. A table that never had a row may not be there."""
    path = data_folder / "tables" / name
    if not (path / "_delta_log").exists():
        return []
    rows = deltalake.DeltaTable(str(path)).to_pyarrow_table().to_pylist()
    return [tuple(plain(row[column]) for column in columns) for row in rows]


def ask(program, data_folder, view):
    """Asks the view's SELECT of the stored tables."""
    words = [program, "sql", "--data", str(data_folder), "--format", "json", view.question]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Difference(f"sql: exit code {done.returncode}: {done.stderr}\n{view.question}")
    rows, kinds = json.loads(done.stdout)["rows"], view.relation.columns
    return [tuple(answered(row.get(column), kind) for column, kind in kinds.items()) for row in rows]


def answered(value, kind):
    if value is None:
        return None
    if kind == "ts":
        return plain(datetime.datetime.fromisoformat(value).astimezone(datetime.timezone.utc))
    return float(value) if kind == "dbl" else value


def bits(rows):
    """Returns rows that are equal only if every bit is."""
    return collections.Counter(tuple(v.hex() if isinstance(v, float) else v for v in row) for row in rows)


def compare(name, found, expected, what):
    """Compares rows in any order; fractions may differ in their tenth digit."""
    order = lambda row: ([(v is None, str(v)) for v in row if not isinstance(v, float)], [v for v in row if isinstance(v, float)])
    found, expected = sorted(found, key=order), sorted(expected, key=order)
    close = lambda a, b: (
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b and type(a) is type(b)
    )
    if len(found) == len(expected) and all(all(map(close, a, b)) for a, b in zip(found, expected)):
        return
    only_found = [row for row in found if row not in set(expected)][:5]
    only_expected = [row for row in expected if row not in set(found)][:5]
    raise Difference(f"{name}: {what}: {len(found)} rows for {len(expected)}\n  has   {only_found}\n  needs {only_expected}")


def round_of(program, seed, folder):
    """Runs one round; returns how many rows were compared."""
    chance = random.Random(seed)
    data = Data(chance)
    folder.mkdir()
    write_files(folder / "in", data)
    if seed % 3 == 2 and data.disorder_us:
        return late_round(program, folder, data, chance)
    pipeline = Pipeline(chance, data, data.disorder_us + chance.choice([0, 1_000_000]))
    (folder / "pipeline.sql").write_text(pipeline.text(), encoding="utf-8")
    folders = {workers: run(program, folder, workers) for workers in (1, 2, 4)}
    expected = by_duckdb(data, pipeline)
    compared = 0
    for view in pipeline.views:
        name, columns = view.relation.name, view.relation.columns
        tables = {workers: table(path, name, columns) for workers, path in folders.items()}
        for workers in (2, 4):
            if bits(tables[workers]) != bits(tables[1]):
                compare(name, tables[workers], tables[1], f"{workers} workers against 1")
                raise Difference(f"{name}: {workers} workers give other bits than 1 worker")
        compare(name, tables[1], expected[name], "stream against DuckDB")
        compare(name, ask(program, folders[2], view), tables[2], "batch against stream")
        if late := table(folders[1], f"{name}$late", ["ts"] if "ts" in columns else []):
            raise Difference(f"{name}: {len(late)} rows are late, and none can be")
        compared += len(expected[name])
    return compared


def late_round(program, folder, data, chance):
    """Lets readings be late; each is in a window, or kept as late, and raw has them all."""
    source = Pipeline(chance, data, 0).source
    size_us = chance.choice([1_000, 1_000_000, 10_000_000])
    window = f"TUMBLE(readings, ts, INTERVAL '{size_us // 1_000} ms')"
    (folder / "pipeline.sql").write_text(
        source + "CREATE MATERIALIZED VIEW raw AS SELECT * FROM readings;"
        f"CREATE MATERIALIZED VIEW w AS SELECT device, window_start, count(*) AS n, sum(v) AS s FROM {window} "
        "WHERE ok IS NOT FALSE GROUP BY device, window_start;"
    )
    total = sum(map(len, data.files))
    wanted = [row for rows in data.files for row in rows if row["ok"] is not False]
    for workers in (1, 2, 4):
        tables = run(program, folder, workers)
        raw, late = table(tables, "raw", ["ts"]), table(tables, "w$late", ["device", "ts", "v"])
        in_windows = table(tables, "w", ["device", "window_start", "n", "s"])
        if len(raw) != total:
            raise Difference(f"raw has {len(raw)} of {total} readings")
        remaining = collections.Counter((row["device"], row["ts"], row["v"]) for row in wanted)
        remaining.subtract(late)
        if any(count < 0 for count in remaining.values()):
            raise Difference("a late row never came, or is late twice")
        windows = collections.defaultdict(lambda: [0, None])
        for (device, ts, v), count in remaining.items():
            if count:
                group = windows[device, ts - ts % size_us]
                group[0] += count
                group[1] = group[1] if v is None else (group[1] or 0) + v * count
        compare("w", in_windows, [(*key, *group) for key, group in windows.items()], "what is not late is in its window")
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="keep the folder of a round that fails")
    options = parser.parse_args()
    program = str(pathlib.Path(options.program).resolve())
    end = time.monotonic() + options.seconds
    top = pathlib.Path(tempfile.mkdtemp(prefix="tidemill-differential-"))
    rounds = rows = 0
    failed = []

    def one(seed):
        if time.monotonic() > end or (failed and not options.keep):
            return None
        folder = top / str(seed)
        try:
            compared = round_of(program, seed, folder)
        except Exception as problem:
            text = (folder / "pipeline.sql").read_text() if (folder / "pipeline.sql").exists() else ""
            kept = f"\nfolder {folder}" if options.keep else ""
            return f"seed {seed}: {type(problem).__name__}: {problem}{kept}\n{text}"
        shutil.rmtree(folder)
        return compared

    seeds = range(options.seed, options.seed + options.rounds)
    with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
        for start in range(0, len(seeds), 32):
            outcomes = list(pool.map(one, seeds[start : start + 32]))
            for outcome in outcomes:
                if isinstance(outcome, str):
                    failed.append(outcome)
                    print(outcome, file=sys.stderr, flush=True)
                elif outcome is not None:
                    rounds, rows = rounds + 1, rows + outcome
            if None in outcomes or (failed and not options.keep):
                break
    if not options.keep:
        shutil.rmtree(top, ignore_errors=True)
    print(f"{rounds} rounds, {rows} rows, {len(failed)} differences")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
