"""Quality against time, of reports of `foreword eval kv-prediction --json`, as an SVG: nats a token over the share of operations, a
panel a report. A report is named as TITLE=FILE."""
import argparse
import json

KINDS = [("exact", "the base", "#777"), ("predicted", "predicted", "#c2512e"), ("pruned", "pruned", "#3b7ea1"), ("no context", "sinks and tail", "#999")]


def panel(title, rows, left):
    rows = [r for r in rows if r["nll"] is not None]
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
    for kind, _, colour in KINDS:
        points = sorted({(r["operations"], r["nll"]) for r in rows if r["way"].startswith(kind)})
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
    for i, (_, name, colour) in enumerate(KINDS):
        body += f'<circle cx="{54 + 120 * i}" cy="292" r="4" fill="{colour}"/><text x="{64 + 120 * i}" y="296">{name}</text>'
    width = 320 * len(args.reports) + 10
    with open(args.out, "w") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 306" font-family="system-ui" font-size="12" fill="#777">{body}'
                  '<text x="50" y="276">share of exact operations; nats a token</text></svg>\n')


if __name__ == "__main__":
    main()
