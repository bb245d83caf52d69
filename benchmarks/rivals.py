"Other ways to attend, to be timed beside ours: plans that a model takes in place of its own"
import torch
import torch.nn.functional as F
from meloformer.net.attention import Plan

class CausalPlan(Plan):
    "Every position reads all before it, whatever the rule says: PyTorch's own kernel, not a model to be trained"
    backend = 'causal'
    def __init__(self, rule, ids): self.shape = ids.shape
    def bind(self, *rules): return self
    def to(self, device, **kw): return self
    def attend(self, q, k, v): return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1]!=k.shape[1])

class MaskPlan(Plan):
    "The rule as a boolean mask for PyTorch's own kernel; rows that read nothing read themselves"
    backend = 'mask'
    def __init__(self, rule, ids):
        self.shape,self.mask = ids.shape,rule.dense(ids)[:, None]
        self.mask |= ~self.mask.any(-1, keepdim=True) & torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    def apply(self, f): return self._apply(f, ['mask'])
    def attend(self, q, k, v): return F.scaled_dot_product_attention(q, k, v, self.mask, enable_gqa=q.shape[1]!=k.shape[1])

RIVALS = dict(causal=CausalPlan, mask=MaskPlan)
