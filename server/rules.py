"""The scoring rules in force: settings, and the priors that are fitted to the items as they are shown.

Invariant: a reply takes the rules once, so that its scores, propensities and policy name belong together.
"""

from dataclasses import dataclass, replace

from bandits.beta_prior import fit_beta_prior
from bandits.policies import MODES, describe
from bandits.policy_settings import with_pooled_mean
from bandits.sums import UNIT, N, S
from server.scoring import SlateRules
from server.snapshot import Parameters


@dataclass(frozen=True)
class NamedRules:
    """Rules, and the names of the policies they make, by mode."""

    slate: SlateRules
    names: dict[str, str]

    @classmethod
    def of(cls, slate: SlateRules) -> "NamedRules":
        """Name the policies of rules."""
        return cls(slate, {mode: describe(mode, slate.policy) for mode in MODES})

    def fitted(self, *, beta_prior: tuple[float, float], pooled_mean: float) -> "NamedRules":
        """The same rules with other values of what is fitted."""
        policy = replace(self.slate.policy, beta_prior=beta_prior, pooled_mean=pooled_mean)
        return NamedRules.of(replace(self.slate, policy=policy))


class RulesInForce:
    """Hands out the current rules.

    Args:
        rules: from the settings.
        fit_prior: True if the Beta prior is to be fitted rather than taken from `rules`.
        fit_pooled_mean: likewise the pooled mean.
    """

    def __init__(self, rules: SlateRules, *, fit_prior: bool, fit_pooled_mean: bool = False) -> None:
        self._fit_prior = fit_prior
        self._fit_pooled_mean = fit_pooled_mean
        self._current = NamedRules.of(rules)

    @property
    def current(self) -> NamedRules:
        """The rules of one reply."""
        return self._current

    def follow(self, parameters: Parameters) -> None:
        """Take the pooled mean over from the totals, which are kept as rows are written; O(1)."""
        if not self._fit_pooled_mean:
            return
        impressions, rewards = parameters.totals
        rules = self._current.slate
        policy = with_pooled_mean(rules.policy, impressions=impressions, rewards=rewards)
        if policy is not rules.policy:
            self._current = NamedRules.of(replace(rules, policy=policy))

    def refit(self, parameters: Parameters) -> None:
        """Fit the Beta prior to the items' sums; O(items), so now and then only, and not in a call."""
        if not self._fit_prior:
            return
        items = parameters.read(lambda sums, _: sums.item.copy())
        if parameters.graph.edits is not None:
            items = items[parameters.graph.edits.live]
        prior = fit_beta_prior(items[:, N], items[:, S] / UNIT)
        rules = self._current.slate
        policy = replace(rules.policy, beta_prior=(prior.a0, prior.b0))
        self._current = NamedRules.of(replace(rules, policy=policy))
