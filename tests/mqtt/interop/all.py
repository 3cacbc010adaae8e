"""Runs every check against a listener: `all.py PORT [NAME]`. Prints a line for each; exit code 1 if one did not hold."""

import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import both
import five
from client import V3, V5, Client, Failed

# Most of the time is waiting.
AT_ONCE = 8


def run(name, check, arguments):
    try:
        check(*arguments)
        return f"held {name}", True
    except Failed as why:
        return f"FAILED {name}: {why}", False
    except Exception:
        return f"FAILED {name}: {traceback.format_exc()}", False


def main():
    Client.port = int(sys.argv[1])
    checks = [(f"{check.__name__} {name}", check, (version,))
              for check in both.CHECKS for name, version in (("3.1.1", V3), ("5", V5))]
    checks += [(check.__name__, check, ()) for check in five.CHECKS]
    wanted = [check for check in checks if len(sys.argv) < 3 or sys.argv[2] in check[0]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda check: run(*check), wanted))
    for line, _ in results:
        print(line)
    sys.exit(0 if all(held for _, held in results) else 1)


if __name__ == "__main__":
    main()
