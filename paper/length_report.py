from __future__ import annotations
from typing import Any
from paper.plan import Findings, Plan
SFT = " (SFT)"
Table = dict[tuple[str, str], list[dict[str, Any]]]
Panels = dict[tuple[int, str], dict[str, float]]
def report(plan: Plan, table: Table, panels: Panels) -> Findings:
    import json
    shifts = list(dict.fromkeys(s for _, s in table))
    arms = list(dict.fromkeys(a for a, _ in table))
    lines = []
    for a in arms:
        lines.append(f"{a:48s} " + "  ".join(f"{table[a,s][0]['mse']:.4f}/{(table[a,s][0]['auc_within_problem'] or 0):.2f}" for s in shifts) + "  " + str({k: round(v,1) for k,v in table[a,IN_][0]['tokens'].items()}))
    lines.append("constant " + "  ".join(f"{[p['mse_constant'] for (q,t),p in panels.items() if t==s][0]:.4f}" for s in shifts))
    return Findings({}, [], "\n".join(lines), {})
IN_ = "none"
