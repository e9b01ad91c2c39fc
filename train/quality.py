"""Quality against time, of reports of `foreword eval kv-prediction --json`, as an SVG: nats a token over the share of operations, a
panel a report. A report is named as TITLE=FILE."""
import argparse
import json

# Name, colour, and whether a way is of this kind; the first that fits counts.
KINDS = [
    ("the base", "#777", lambda way: way == "exact"),
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
    rows = [r for r in rows if r["nll"] is not None and kind(r["way"]) is not None]
    low, high = min(r["nll"] for r in rows), max(r["nll"] for r in rows)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    x = lambda share: left + 250 * share
    y = lambda nll: 240 - 200 * (nll - low) / (high - low)
    parts = [f'<text x="{left}" y="20" font-weight="600">{title}</text>']
    for i in range(5):
        nll = low + (high - low) * i / 4
        parts.append(f'<line x1="{left}" x2="{left + 250}" y1="{y(nll):.1f}" y2="{y(nll):.1f}" stroke="#8884"/>'
                     f'<text x="{left - 6}" y="{y(nll) + 4:.1f}" text-anchor="end">{nll:.2f}</text>'
                     f'<text x="{x(i / 4):.1f}" y="258" text-anchor="middle">{i / 4:.2f}</text>')
    for i, (_, colour, _) in enumerate(KINDS):
        points = sorted({(r["operations"], r["nll"]) for r in rows if kind(r["way"]) == i})
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
                  '<text x="50" y="276">share of exact operations; nats a token</text></svg>\n')


if __name__ == "__main__":
    main()
