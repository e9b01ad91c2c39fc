"""Quality against time, of reports of `foreword eval kv-prediction --json`, as an SVG: nats a token above the base's (logarithmic)
over the share of operations, a panel a report. A report is named as TITLE=FILE."""
import argparse
import json
import math

# Name, colour, and whether a way is of this kind; the first that fits counts.
KINDS = [
    ("closed form", "#e0a458", lambda way: way.startswith("predicted") and "ridge" in way),
    ("trained", "#c2512e", lambda way: way.startswith("predicted")),
    ("pruned: last", "#3b7ea1", lambda way: way.startswith("pruned") and "random" not in way and "attention" not in way),
    ("random", "#9bc4d8", lambda way: "at random" in way),
    ("by attention", "#5b8e7d", lambda way: "by attention" in way),
    ("the paper's form", "#8661c1", lambda way: way.startswith("auxiliary")),
    ("sinks and tail", "#999", lambda way: way.startswith("no context")),
]


def kind(way):
    return next((i for i, (_, _, fits) in enumerate(KINDS) if fits(way)), None)


def panel(title, rows, left):
    base = next(r["nll"] for r in rows if r["way"] == "exact")
    # What is no worse than the base is drawn where a hundredth would be.
    rows = [r | {"above": max(r["nll"] - base, 0.01)} for r in rows if r["nll"] is not None and kind(r["way"]) is not None]
    ends = [f(math.log10(r["above"]) for r in rows) for f in (min, max)]
    low, high = ends[0] - 0.1, ends[1] + 0.1
    right = math.ceil(max(r["operations"] for r in rows) * 10) / 10
    x = lambda share: left + 250 * share / right
    y = lambda above: 240 - 200 * (math.log10(above) - low) / (high - low)
    parts = [f'<text x="{left}" y="20" font-weight="600">{title}</text>']
    for above in (0.01, 0.03, 0.1, 0.3, 1, 3):
        if low <= math.log10(above) <= high:
            parts.append(f'<line x1="{left}" x2="{left + 250}" y1="{y(above):.1f}" y2="{y(above):.1f}" stroke="#8884"/>'
                         f'<text x="{left - 6}" y="{y(above) + 4:.1f}" text-anchor="end">{above}</text>')
    for i in range(5):
        parts.append(f'<text x="{x(right * i / 4):.1f}" y="258" text-anchor="middle">{right * i / 4:.2g}</text>')
    for i, (_, colour, _) in enumerate(KINDS):
        points = sorted({(r["operations"], r["above"]) for r in rows if kind(r["way"]) == i})
        parts += [f'<circle cx="{x(s):.1f}" cy="{y(n):.1f}" r="4" fill="{colour}"/>' for s, n in points]
    return "".join(parts)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out")
    args.add_argument("reports", nargs="+")
    args = args.parse_args()
    body = ""
    for i, report in enumerate(args.reports):
        title, path = report.split("=", 1)
        body += panel(title, json.load(open(path))["rows"], 50 + 320 * i)
    for i, (name, colour, _) in enumerate(KINDS):
        x, y = 54 + 150 * (i % 4), 296 + 18 * (i // 4)
        body += f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/><text x="{x + 10}" y="{y}">{name}</text>'
    width = 320 * len(args.reports) + 10
    with open(args.out, "w") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 324" font-family="system-ui" font-size="12" fill="#777">{body}'
                  '<text x="50" y="276">share of exact operations; nats a token above the base</text></svg>\n')


if __name__ == "__main__":
    main()
