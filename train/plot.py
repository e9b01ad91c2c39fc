"""The training curve (lines of `train.py`) as an SVG: KL a token, single steps and their running mean."""
import argparse
import json


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("log")
    args.add_argument("out")
    args = args.parse_args()
    rows = [json.loads(line) for line in open(args.log)]
    steps, kls = [r["step"] for r in rows], [r["kl"] for r in rows]
    top = max(kls) * 1.05
    x = lambda s: 50 + 520 * s / max(steps)
    y = lambda v: 230 - 200 * v / top
    mean, smooth = kls[0], []
    for k in kls:
        mean += (k - mean) * 0.1
        smooth.append(mean)
    dots = "".join(f'<circle cx="{x(s):.1f}" cy="{y(k):.1f}" r="2" fill="#3b7ea1" opacity=".45"/>' for s, k in zip(steps, kls))
    line = " ".join(f"{x(s):.1f},{y(k):.1f}" for s, k in zip(steps, smooth))
    ticks = "".join(
        f'<line x1="50" x2="570" y1="{y(top * i / 4):.1f}" y2="{y(top * i / 4):.1f}" stroke="#8884"/>'
        f'<text x="44" y="{y(top * i / 4) + 4:.1f}" text-anchor="end">{top * i / 4:.2f}</text>' for i in range(5))
    ticks += "".join(f'<text x="{x(max(steps) * i / 4):.1f}" y="248" text-anchor="middle">{max(steps) * i // 4}</text>' for i in range(5))
    with open(args.out, "w") as out:
        out.write('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 270" font-family="system-ui" font-size="12" fill="#777">'
                  f'{ticks}{dots}<polyline points="{line}" fill="none" stroke="#c2512e" stroke-width="2"/>'
                  '<text x="50" y="16">KL to the base, nats a token (training texts)</text><text x="310" y="266" text-anchor="middle">step</text></svg>\n')


if __name__ == "__main__":
    main()
