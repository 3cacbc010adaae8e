"""The reference model in conversation: one case a line in, its outcome a line out. See windows.py for the rules."""
import json
import sys

from windows import INF, run

for line in sys.stdin:
    case = json.loads(line)
    options = {k: case[k] for k in ("delay", "lateness", "idle", "ahead", "flush") if case.get(k) is not None}
    table, late, quarantined, watermark = run(case["epochs"], tuple(case["window"]), **options)
    print(json.dumps({
        "table": sorted([*k, v] for k, v in table.items()),
        "late": sorted(late),
        "quarantined": sorted(quarantined),
        "watermark": None if watermark == -INF else watermark,
    }), flush=True)
