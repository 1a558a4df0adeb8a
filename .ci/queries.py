#!/usr/bin/env python3
"""Every query of the given dashboards as a recording rule, so that promtool can say which it does not understand."""
import json
import sys


def queries(node):
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            yield node["expr"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from queries(child)


found = [q for path in sys.argv[1:] for q in queries(json.load(open(path, encoding="utf-8")))]
fill = {"$__rate_interval": "1m", "$epsilon": "0.01", "$job": ".+", "$instance": ".+"}
rules = []
for number, query in enumerate(found):
    for name, value in fill.items():
        query = query.replace(name, value)
    if "$" in query:
        sys.exit(f"a dashboard uses a variable that nobody defines: {query}")
    rules.append({"record": f"panel:{number}", "expr": query})
json.dump({"groups": [{"name": "panels", "rules": rules}]}, sys.stdout)
