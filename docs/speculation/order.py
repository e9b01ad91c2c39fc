#!/usr/bin/env python3
"""Sums up the lines that `cargo test --test speculate_order -- --ignored forms_of` prints.

    python3 docs/speculation/order.py LINES... > docs/speculation/order.json

For each temperature, method and budget (or depth): expected tokens a round with its 95 % confidence (errors by prompt: places
of one prompt are not independent), for the form of the method that does best; and the differences between one method and the next
at the same places. `all` are means over the budgets, `depths` those over the depths.
"""
import collections
import json
import math
import sys

METHODS = ["rsd-s", "rsd-c", "independent", "chain"]
BUDGETS, DEPTHS = ["6", "10", "14", "21", "30"], ["depth2", "depth3", "depth4", "depth5"]


def mean(values):
    """Mean and 95 % confidence of `(prompt, value)`."""
    m = sum(v for _, v in values) / len(values)
    off = collections.defaultdict(float)
    for prompt, v in values:
        off[prompt] += v - m
    n = len(off)
    error = math.sqrt(n / (n - 1) * sum(x * x for x in off.values())) / len(values)
    return {"mean": round(m, 4), "confidence": round(1.96 * error, 4)}


def sums(lines, temperature):
    best = {}
    for budget in BUDGETS + DEPTHS:
        for method in METHODS:
            forms = [name for name in lines[0][1] if name.split()[:2] == [method, budget]]
            best[method, budget] = max(forms, key=lambda form: sum(found[form] for _, found in lines))
    row = lambda budget, value: {"temperature": temperature, "budget": budget, **value}
    means, steps = [], []
    for budget in BUDGETS + DEPTHS:
        for method in METHODS:
            form = best[method, budget]
            means.append(row(budget, {"method": method, "form": form.split()[-1], **mean([(p, found[form]) for p, found in lines])}))
    groups = {**{b: [b] for b in BUDGETS + DEPTHS}, "all": BUDGETS, "depths": DEPTHS}
    for name, group in groups.items():
        for more, less in zip(METHODS, METHODS[1:]):
            off = lambda found: sum(found[best[more, b]] - found[best[less, b]] for b in group) / len(group)
            steps.append(row(name, {"more": more, "less": less, **mean([(p, off(found)) for p, found in lines])}))
    return means, steps


def main():
    by_temperature = collections.defaultdict(list)
    for file in sys.argv[1:]:
        for line in map(json.loads, open(file)):
            about = line["about"]
            by_temperature[round(about["temperature"], 3)].append(((file, about["prompt"]), line["found"]))
    report = {"places": {}, "prompts": {}, "means": [], "differences": []}
    for temperature, lines in sorted(by_temperature.items()):
        means, steps = sums(lines, temperature)
        report["places"][temperature] = len(lines)
        report["prompts"][temperature] = len({prompt for prompt, _ in lines})
        report["means"] += means
        report["differences"] += steps
    rows = lambda list_: "[\n" + ",\n".join(json.dumps(r) for r in list_) + "\n]"
    head = json.dumps({k: report[k] for k in ("places", "prompts")})[:-1]
    print(f'{head}, "means": {rows(report["means"])}, "differences": {rows(report["differences"])}}}')


if __name__ == "__main__":
    main()
