"""What trains maps and draft block: Muon for matrices, Adam for vectors."""
import math

import torch

MUON = 5  # a rate of Adam's is a fifth of Muon's, which scales its updates so that an entry moves by 0.2


class Optimizer:
    def __init__(self, matrices, vectors, rate):
        self.rate = rate
        self.muon = torch.optim.Muon(matrices, lr=MUON * rate, weight_decay=0, momentum=0.9, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.Adam(vectors, lr=rate, betas=(0.9, 0.98))

    def step(self, n, progress):
        """Step `n` along the gradients, which are cleared: the rate rises for five steps, then falls as a cosine to zero."""
        rate = self.rate * min(1, (n + 1) / 5) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for optimizer, factor in (self.muon, MUON), (self.adam, 1):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()

    def state(self):
        return [self.muon.state_dict(), self.adam.state_dict()]

    def load(self, state):
        self.muon.load_state_dict(state[0])
        self.adam.load_state_dict(state[1])
