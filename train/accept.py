"""The acceptance head (SpecDec++, arXiv 2405.19715), by logistic regression."""
import torch
import torch.nn.functional as F

from features import streams


class Accept:
    """Whether the block's first guess is the base's first choice among all tokens, from what the head reads and from the
    guess's probability. `ids` are the draft vocabulary."""

    def __init__(self, base, block, ids, data, rows):
        seen = []
        with torch.no_grad():
            for row in rows:
                x, last = streams(data, [row])
                h = base.rms(block(base, x[:, -1]), base.norm)[0]
                p, guess = F.linear(h, base.head[ids]).softmax(-1).max(-1)
                right = base.logits(last[0]).argmax(-1) == ids[guess]
                seen.append((torch.cat([h, p.clamp(1e-4, 1 - 1e-4).logit()[:, None]], 1), right.float()))
        self.inputs, self.right = (torch.cat(t) for t in zip(*seen))

    def fit(self, columns=slice(None)):
        """Weights of the inputs, those outside `columns` 0, and a constant behind them."""
        x = self.inputs[:, columns]
        mean, scale = x.mean(0), x.std(0) + 1e-3
        w = torch.zeros(x.shape[1] + 1, requires_grad=True)
        z = torch.cat([(x - mean) / scale, torch.ones(len(x), 1)], 1)
        optimizer = torch.optim.LBFGS([w], max_iter=60)

        def closure():
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(z @ w, self.right) + 1e-3 * (w[:-1] ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        w, out = w.detach(), torch.zeros(self.inputs.shape[1] + 1)
        out[:-1][columns] = w[:-1] / scale
        out[-1] = w[-1] - (w[:-1] * mean / scale).sum()
        return out

    def check(self, w):
        """Cross entropy, and the probability that a right guess has better odds than a wrong one."""
        odds = self.inputs @ w[:-1] + w[-1]
        rank = torch.empty(len(odds)).scatter_(0, odds.argsort(), torch.arange(1.0, len(odds) + 1))
        n = self.right.sum()
        area = (rank[self.right > 0].sum() - n * (n + 1) / 2) / (n * (len(odds) - n))
        return [round(v.item(), 4) for v in (F.binary_cross_entropy_with_logits(odds, self.right), area)]
