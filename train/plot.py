"""Training curves (lines of `train.py`) as an SVG: KL to the base of texts that are not learnt, against the texts learnt."""
import argparse
import json

COLOURS = ["#c2512e", "#3b7ea1", "#7a9a3c", "#8a5fa8"]


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out")
    args.add_argument("logs", nargs="+", metavar="LOG[=NAME]")
    args.add_argument("--texts", type=int, default=4, help="a step")
    args = args.parse_args()
    curves = []
    for log in args.logs:
        path, _, name = log.partition("=")
        rows = [r for r in map(json.loads, open(path)) if "held" in r]
        curves.append((name or path, [(r["step"] * args.texts, r["held"]) for r in rows]))
    points = [p for _, curve in curves for p in curve]
    right, top = max(p[0] for p in points), max(p[1] for p in points) * 1.05
    x = lambda v: 50 + 520 * v / right
    y = lambda v: 230 - 200 * v / top
    ticks = "".join(
        f'<line x1="50" x2="570" y1="{y(top * i / 4):.1f}" y2="{y(top * i / 4):.1f}" stroke="#8884"/>'
        f'<text x="44" y="{y(top * i / 4) + 4:.1f}" text-anchor="end">{top * i / 4:.2f}</text>' for i in range(5))
    ticks += "".join(f'<text x="{x(right * i / 4):.1f}" y="248" text-anchor="middle">{right * i // 4}</text>' for i in range(5))
    lines = ""
    for i, ((name, curve), colour) in enumerate(zip(curves, COLOURS)):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in curve)
        lines += f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        lines += f'<text x="562" y="{36 + 16 * i}" text-anchor="end" fill="{colour}">{name}</text>'
    with open(args.out, "w") as out:
        out.write('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 270" font-family="system-ui" font-size="12" fill="#777">'
                  f'{ticks}{lines}<text x="50" y="16">KL to the base, nats a token (12 texts that are not learnt)</text>'
                  '<text x="310" y="266" text-anchor="middle">texts learnt</text></svg>\n')


if __name__ == "__main__":
    main()
