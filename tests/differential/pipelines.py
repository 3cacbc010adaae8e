"""Random readings, and random views over them: each expression as tidemill and as DuckDB write it.

Everything comes from one seed. What the two dialects mean differently by design is left out: DuckDB divides whole
numbers to fractions, sums them beyond 64 bits, and takes 0.0 and -0.0 for one key.
"""

import dataclasses
import datetime
import random

MICROSECOND = datetime.timedelta(microseconds=1)
EPOCH = datetime.datetime(1970, 1, 1)
UNITS = {"ms": 1_000, "seconds": 1_000_000, "minutes": 60_000_000, "hours": 3_600_000_000, "days": 86_400_000_000}
BIGINTS = [-(2**63), -(2**63) + 1, -(10**15), -1, 0, 7, 2**53 + 1, 10**18, 2**63 - 1]
TEXTS = ["a", "b", "freezer-17", "twelve bytes", "thirteen byte", "a name longer than twelve bytes, one", "", " a",
         "a name longer than twelve bytes, two", "Ä", "温度計", "😀 smile", "it's", "ab%", "A", "null", "a\"b,c"]


@dataclasses.dataclass(frozen=True)
class Sql:
    """An expression in both dialects, and its kind: text, int, big, dbl, bool, date, ts."""

    ours: str
    theirs: str
    kind: str


def same(text, kind):
    return Sql(text, text, kind)


def interval(us):
    """Writes a width as a person would."""
    name, unit_us = next((name, unit) for name, unit in reversed(UNITS.items()) if us % unit == 0)
    return f"INTERVAL '{us // unit_us} {name}'"


class Data:
    """Rows of one source, in up to three files."""

    COLUMNS = {"device": "text", "site": "text", "v": "int", "big": "big", "x": "dbl", "ok": "bool", "d": "date", "ts": "ts"}

    def __init__(self, chance):
        self.form = chance.choice(["json", "csv", "parquet"])
        self.unit_us = chance.choice([1, 1_000, 1_000_000])
        start = chance.choice(["2026-11-20T09:00:00", "1969-12-31T23:59:00", "1901-02-28T22:00:00", "2024-02-28T23:59:30"])
        self.start_us = (datetime.datetime.fromisoformat(start) - EPOCH) // MICROSECOND
        self.spread_us = chance.choice([3_000_000, 120_000_000, 7_200_000_000, 3 * 86_400_000_000])
        self.disorder_us = chance.choice([0, 0, 1_000_000, 30_000_000])
        count = chance.choice([0, 1, 30, 200, 600])
        # An empty text is NULL in a CSV file.
        texts = [text for text in TEXTS if text or self.form != "csv"]
        keys = chance.sample(texts, chance.randint(1, len(texts)))
        nulls = chance.choice([0.0, 0.1, 0.6])
        rows = [self.row(chance, keys, nulls) for _ in range(count)]
        rows.sort(key=lambda row: row["ts"] + chance.randint(0, self.disorder_us))
        file_count = chance.choice([1, 1, 3])
        self.files = [rows[number::file_count] for number in range(file_count)]

    def row(self, chance, keys, nulls):
        number = chance.choice([0.0, -0.5, chance.uniform(-1e3, 1e3), chance.uniform(-1, 1) * 10 ** chance.randint(-8, 6)])
        row = {
            "device": chance.choice(keys),
            "site": chance.choice(["north", "south"]),
            "v": chance.choice([0, -1, 3, chance.randint(-1_000_000, 1_000_000)]),
            "big": chance.choice(BIGINTS),
            "x": number,
            "ok": chance.random() < 0.5,
            "d": datetime.date(1969, 12, 31) + datetime.timedelta(days=chance.randint(-40_000, 40_000)),
        }
        row = {name: None if chance.random() < nulls else value for name, value in row.items()}
        offset_us = chance.randint(0, self.spread_us)
        row["ts"] = self.start_us + offset_us - offset_us % self.unit_us
        return row


@dataclasses.dataclass
class Relation:
    """What a view may read: columns with their kinds, and those that carry event time."""

    name: str
    columns: dict
    times: list
    # What stands for it in a question about the past.
    stored: str


@dataclasses.dataclass
class View:
    """A view in both dialects."""

    relation: Relation
    ours: str
    theirs: str
    # The view's SELECT over the stored tables.
    question: str


class Pipeline:
    """A source and some views over it and over each other."""

    def __init__(self, chance, data, delay_us):
        self.chance = chance
        source = Relation("readings", dict(Data.COLUMNS), ["ts"], "raw")
        path = {"json": "in/*.ndjson", "csv": "in/*.csv", "parquet": "in/*.parquet"}[data.form]
        delay = f" - {interval(delay_us)}" if delay_us else ""
        self.source = (
            "CREATE SOURCE readings (device TEXT, site TEXT, v BIGINT, big BIGINT, x DOUBLE, ok BOOLEAN, d DATE,\n"
            f"    ts TIMESTAMP NOT NULL, WATERMARK FOR ts AS ts{delay}\n"
            f") WITH (connector = 'file', path = '{path}');\n"
        )
        columns = ", ".join(source.columns)
        raw = Relation("raw", dict(source.columns), ["ts"], "raw")
        self.views = [View(raw, "SELECT * FROM readings", f"SELECT {columns} FROM readings", "SELECT * FROM raw")]
        relations = [source, source, source, raw]
        for number in range(chance.randint(2, 4)):
            over = chance.choice([relation for relation in relations if relation.times])
            plain = chance.random() < 0.25
            view = self.plain(f"view_{number}", over) if plain else self.windowed(f"view_{number}", over)
            self.views.append(view)
            relations += [view.relation, view.relation]

    def text(self):
        statements = [f"CREATE MATERIALIZED VIEW {view.relation.name} AS\n{view.ours};\n" for view in self.views]
        self.chance.shuffle(statements)
        return self.source + "".join(statements)

    def plain(self, name, over):
        chance = self.chance
        kept = [column for column in over.columns if column in over.times or chance.random() < 0.7]
        items = [same(column, over.columns[column]) for column in kept]
        names = list(kept)
        for number in range(chance.randint(0, 3)):
            kind = chance.choice(["text", "int", "dbl", "bool", "ts"])
            if computed := self.expression(over, kind):
                items.append(computed)
                names.append(f"{name}_c{number}")
        where = self.maybe_condition(over)
        select = lambda side, source: self.select(side, items, names, source, where)
        columns = dict(zip(names, (item.kind for item in items)))
        relation = Relation(name, columns, [time for time in over.times if time in kept], name)
        return View(relation, select("ours", over.name), select("theirs", over.name), select("ours", over.stored))

    def windowed(self, name, over):
        chance = self.chance
        time = chance.choice(over.times)
        size_us, slide_us = self.width()
        call = f"{time}, {interval(slide_us)}, {interval(size_us)}" if slide_us else f"{time}, {interval(size_us)}"
        window = ("HOP" if slide_us else "TUMBLE", call)
        inner = Relation(over.name, {c: k for c, k in over.columns.items() if not c.startswith("window_")}, [], "")

        keys = [key for _ in range(chance.choice([0, 1, 1, 2])) if (key := self.key(inner))]
        keys = list(dict.fromkeys(keys))
        items = [(key, f"k{number}") for number, key in enumerate(keys)]
        times = chance.choice([["window_start"], ["window_end"], ["window_start", "window_end"]])
        grouped = chance.choice([["window_start"], ["window_start", "window_end"]])
        grouped = list(dict.fromkeys(grouped + times))
        items += [(same(column, "ts"), column) for column in times]
        for number in range(chance.randint(1, 5)):
            if aggregate := self.aggregate(inner):
                items.append((aggregate, f"a{number}"))
        items.append((same("count(*)", "int"), "n"))
        chance.shuffle(items)
        where = self.maybe_condition(inner)
        having = self.having(inner) if chance.random() < 0.3 else None

        values, names = [item for item, _ in items], [item_name for _, item_name in items]
        by = {side: ", ".join([getattr(key, side) for key in keys] + grouped) for side in ("ours", "theirs")}

        def tail(side):
            return f"\nGROUP BY {by[side]}" + (f"\nHAVING {getattr(having, side)}" if having else "")

        def ours(source):
            return self.select("ours", values, names, f"{window[0]}({source}, {window[1]})", where) + tail("ours")

        theirs = self.select("theirs", values, names, windows(over, time, size_us, slide_us), where) + tail("theirs")
        columns = dict(zip(names, (item.kind for item in values)))
        return View(Relation(name, columns, times, name), ours(over.name), theirs, ours(over.stored))

    def width(self):
        chance = self.chance
        size_us = chance.choice([1_000, 700_000, 1_000_000, 7_000_000, 10_000_000, 60_000_000, 5_400_000_000,
                                 86_400_000_000, 30 * 86_400_000_000])
        if chance.random() < 0.55:
            return size_us, None
        slide_us = chance.choice([size_us // 2, size_us // 4, size_us * 2 // 5, size_us * 3 // 4, size_us // 10])
        return size_us, max(slide_us - slide_us % 1_000, 1_000)

    def select(self, side, items, names, source, where):
        columns = [
            text if text == name else f"{text} AS {name}"
            for text, name in zip((getattr(item, side) for item in items), names)
        ]
        return f"SELECT {', '.join(columns)}\nFROM {source}" + (f"\nWHERE {getattr(where, side)}" if where else "")

    def maybe_condition(self, over):
        return self.expression(over, "bool") if self.chance.random() < 0.35 else None

    def key(self, over):
        chance = self.chance
        if chance.random() < 0.6:
            columns = [column for column, kind in over.columns.items() if column[0] != "a" or kind != "dbl"]
            column = chance.choice(columns) if columns else None
            return same(column, over.columns[column]) if column else None
        key = self.expression(over, chance.choice(["text", "int", "bool", "ts"]))
        # A number in GROUP BY is the place of a column.
        return key if key and any(column in key.ours for column in over.columns) else None

    def having(self, over):
        chance = self.chance
        kind = chance.choice(["count", "sum", "null"])
        numbers = [column for column, kind in over.columns.items() if kind == "int"]
        if kind == "count" or not numbers:
            return same(f"count(*) {chance.choice(['>', '<=', '<>'])} {chance.randint(1, 3)}", "bool")
        column = chance.choice(numbers)
        if kind == "sum":
            return same(f"sum({column}) > {chance.choice([-5, 0, 100])}", "bool")
        return same(f"max({column}) IS {chance.choice(['', 'NOT '])}NULL", "bool")

    def aggregate(self, over):
        chance = self.chance
        function = chance.choice(["count", "sum", "sum", "avg", "avg", "min", "max", "spread"])
        kinds = {
            "count": ["text", "int", "dbl", "bool", "date", "ts", "big"],
            "sum": ["int", "dbl", "big"],
            "avg": ["int", "dbl"],
            "spread": ["int", "dbl"],
        }.get(function, ["text", "int", "big", "dbl", "bool", "date", "ts"])
        kind = chance.choice(kinds)
        value = self.expression(over, kind, 1)
        if not value:
            return None
        condition = self.expression(over, "bool", 0) if function != "spread" and chance.random() < 0.15 else None
        only = {
            side: f" FILTER (WHERE {getattr(condition, side)})" if condition else "" for side in ("ours", "theirs")
        }
        if function == "spread":
            pair = [f"max({text}) - min({text})" for text in (value.ours, value.theirs)]
            return Sql(*pair, kind)
        ours, theirs = f"{function}({value.ours}){only['ours']}", f"{function}({value.theirs}){only['theirs']}"
        if function == "count":
            return Sql(ours, theirs, "int")
        if function == "sum" and kind in ("int", "big"):
            # Sums of whole numbers are of 64 bits here, and wrap.
            return Sql(ours, f"wrapped({theirs})", "big")
        if kind == "dbl" and function in ("sum", "avg"):
            theirs = "f" + theirs
        return Sql(ours, theirs, "dbl" if function == "avg" else kind)

    def expression(self, over, kind, depth=2):
        """Returns an expression of a kind over the columns, or None if there is nothing to make it of."""
        chance = self.chance
        columns = [column for column, column_kind in over.columns.items() if column_kind == kind]
        if kind != "bool" and columns and (depth == 0 or chance.random() < 0.4):
            return same(chance.choice(columns), kind)
        deeper = lambda kind: self.expression(over, kind, depth - 1) if depth else self.column(over, kind)
        if kind in ("date", "big"):
            return self.column(over, kind)
        if kind == "ts":
            return self.made(deeper("ts"), chance.choice(["date_trunc('hour', {})", "date_trunc('day', {})", "{}"]), "ts")
        if kind == "text":
            form = chance.choice(["upper({})", "{} || '-x'", "substr({}, 1, 3)", "coalesce({}, 'none')",
                                  "CASE WHEN {} LIKE 'a%' THEN 'starts' ELSE 'other' END", "concat({}, '/', {})"])
            return self.made(deeper("text"), form, "text")
        if kind == "int":
            forms = ["{} + 1", "({} * 2)", "{} % 7", "abs({})", "coalesce({}, 0)", "CASE WHEN {} > 0 THEN 1 END", "nullif({}, 3)"]
            if chance.random() < 0.25 and (text := deeper("text")):
                return self.made(text, "length({})", "int")
            return self.made(deeper("int"), chance.choice(forms), "int")
        if kind == "dbl":
            if chance.random() < 0.25 and (whole := deeper("int")):
                return self.made(whole, "CAST({} AS DOUBLE) / 4", "dbl")
            forms = ["({} * 1.8 + 32)", "abs({})", "coalesce({}, 0.25)", "CASE WHEN {} > 0.1 THEN {} END"]
            return self.made(deeper("dbl"), chance.choice(forms), "dbl")
        return self.condition(over, depth, deeper)

    def condition(self, over, depth, deeper):
        chance = self.chance
        kind = chance.choice(["text", "int", "dbl", "bool", "date", "null", "both"])
        if kind == "both" and depth:
            left, right = deeper("bool"), deeper("bool")
            if left and right:
                word = chance.choice(["AND", "OR"])
                return Sql(f"({left.ours} {word} {right.ours})", f"({left.theirs} {word} {right.theirs})", "bool")
        forms = {
            "text": ["{} IN ('a', 'b', 'it''s')", "{} LIKE 'a%'", "{} NOT LIKE '%a'", "{} <> 'freezer-17'", "{} >= 'b'"],
            "int": ["{} BETWEEN -5 AND 100000", "{} > 0", "{} <> 3", "{} NOT IN (0, 3)"],
            "dbl": ["{} > 0.123457", "{} < -3.5", "NOT ({} > 100.5)"],
            "bool": ["{}", "NOT {}", "{} IS NOT TRUE"],
            "date": ["{} >= DATE '1970-01-01'"],
        }
        if kind in forms and (value := deeper(kind) if kind != "bool" else self.column(over, kind)):
            return self.made(value, chance.choice(forms[kind]), "bool")
        names = list(over.columns)
        return same(f"{chance.choice(names)} IS {chance.choice(['', 'NOT '])}NULL", "bool") if names else None

    def column(self, over, kind):
        columns = [column for column, column_kind in over.columns.items() if column_kind == kind]
        return same(self.chance.choice(columns), kind) if columns else None

    @staticmethod
    def made(value, form, kind):
        if value is None:
            return None
        return Sql(form.replace("{}", value.ours), form.replace("{}", value.theirs), kind)


def windows(over, time, size_us, slide_us):
    """Returns a subquery that puts every row in each of its windows, by whole numbers alone."""
    columns = [column for column in over.columns if not column.startswith("window_")]
    at, slide_us = f"epoch_us({time})", slide_us or size_us
    backs = -(-size_us // slide_us)
    start = f"({at} - (({at} % {slide_us}) + {slide_us}) % {slide_us} - back * {slide_us})"
    listed = "".join(f"{column}, " for column in columns)
    rows = f"SELECT {listed}{start} AS start_us, {at} AS at_us FROM {over.name}, range({backs}) AS backs(back)"
    return (
        f"(SELECT {listed}make_timestamp(start_us) AS window_start, make_timestamp(start_us + {size_us}) AS window_end "
        f"FROM ({rows}) WHERE at_us < start_us + {size_us})"
    )
