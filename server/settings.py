"""What can be set, from where, within which ranges.

Sources, strongest first: arguments, environment (`FRESHET_`, nested with `__`), files of /run/secrets, a TOML file
(`FRESHET_CONFIG`). Invariants: a key that nobody reads is refused; every error names the field, what was expected
and what came; nothing here changes after start.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bandits.join_rule import MAX_REWARD_CAP, JoinRule, Resolution
from bandits.life_cycle import LifeCycle
from bandits.policy_settings import Estimator, PolicySettings, Unseen
from bandits.reward_rule import Aggregation
from server.kafka_settings import KafkaGroup
from server.limits import MAX_BUDGETS, MAX_READERS, MAX_SLATE, MAX_SURFACE_BYTES
from streams.embedded import LoopLimits

PREFIX = "FRESHET_"
CONFIG_VARIABLE = "FRESHET_CONFIG"
SECRETS_DIR = Path("/run/secrets")
# Read by others than the settings; or put there by Kubernetes for a Service that is called "freshet".
_OTHER_VARIABLES = re.compile(
    r"FRESHET_(CONFIG|DEBUG|FAILPOINT|KAFKA_CACHE|TEST_\w+|SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?)"
)
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")

ModeName = Literal["exploit", "ucb", "thompson", "beta_thompson", "epsilon_greedy", "uniform", "randomized_ucb"]


class SettingsError(ValueError):
    """Settings that cannot be used; the message has one line a field."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyGroup(_Group):
    """`bandits.policies.PolicySettings`, and the mode that is used where a request names none."""

    mode: ModeName = "randomized_ucb"
    alpha: float = PolicySettings.alpha
    thompson_scale: float = PolicySettings.thompson_scale
    prior_mean: float = PolicySettings.prior_mean
    prior_strength: float = PolicySettings.prior_strength
    epsilon: float = PolicySettings.epsilon
    beta_prior: tuple[float, float] | None = Field(default=None, description="(a0, b0); none = fitted to the items")
    optimism: float = PolicySettings.optimism
    edge_strength: float = PolicySettings.edge_strength
    item_strength: float = PolicySettings.item_strength
    pooled_mean: float | None = Field(default=None, description="of randomized_ucb; none = as shown so far")
    estimator: Estimator = PolicySettings.estimator
    unseen: Unseen = PolicySettings.unseen

    @model_validator(mode="after")
    def _in_range(self) -> "PolicyGroup":
        self.settings()
        return self

    def settings(self) -> PolicySettings:
        """As the policies take them."""
        fitted = {name for name in ("beta_prior", "pooled_mean") if getattr(self, name) is None}
        return PolicySettings(**self.model_dump(exclude={"mode", *fitted}))


class SlateGroup(_Group):
    """How a slate is filled from scores."""

    top_m: int = Field(default=1, ge=1, le=MAX_SLATE, description="the best so many are permuted uniformly")
    explore_share: float = Field(default=0.0, ge=0, le=1, description="share of slots drawn from all candidates")
    propensity_draws: int = Field(default=64, ge=1, le=10_000, description="redraws behind a Thompson propensity")


class LifeCycleGroup(_Group):
    """`bandits.life_cycle.LifeCycle` and the budgets of surfaces: when exploration of an item, or any, ends."""

    graduate_rewards: float | None = Field(default=None, gt=0, description="rewards in all")
    graduate_width: float | None = Field(default=None, gt=0, description="width in the user's context")
    max_age_s: float | None = Field(default=None, gt=0, description="since the item was published")
    max_item_impressions: float | None = Field(default=None, gt=0, description="impressions in all")
    max_cluster_impressions: float | None = Field(default=None, gt=0, description="of items in the lane")
    first_impressions: float | None = Field(default=None, gt=0, description="owed to each new item in the lane")
    first_max_age_s: float = Field(default=604_800.0, ge=0, description="since publication; 0 = all items are new")
    first_share: float = Field(
        default=LifeCycle.first_share, gt=0, le=1, description="of slots, for those owed some"
    )
    budgets: dict[str, int] = Field(
        default_factory=dict, max_length=MAX_BUDGETS, description='explored items by surface; "*" = any other'
    )
    budget_window_s: float = Field(default=3_600.0, gt=0, description="after which budgets are whole again")

    @field_validator("budgets")
    @classmethod
    def _budgets_are_counts(cls, value: dict[str, int]) -> dict[str, int]:
        for surface, items in value.items():
            if items < 0:
                raise ValueError(f"expected items of {surface!r} to be 0 or more, got {items}")
        return value

    @model_validator(mode="after")
    def _first_within_cap(self) -> "LifeCycleGroup":
        first, cap = self.first_impressions, self.max_item_impressions
        if first is not None and cap is not None and first > cap:
            raise ValueError(f"first_impressions: expected at most max_item_impressions, {cap:g}, got {first:g}")
        return self

    @property
    def is_set(self) -> bool:
        """Whether anything bounds exploration, or is owed to new items."""
        return self != LifeCycleGroup(
            budget_window_s=self.budget_window_s, first_share=self.first_share, first_max_age_s=self.first_max_age_s
        )

    def rules(self) -> LifeCycle:
        """As the policies take them."""
        return LifeCycle(
            graduate_rewards=self.graduate_rewards,
            graduate_width=self.graduate_width,
            max_age_ms=None if self.max_age_s is None else self.max_age_s * 1e3,
            max_item_impressions=self.max_item_impressions,
            max_cluster_impressions=self.max_cluster_impressions,
            first_impressions=self.first_impressions,
            first_max_age_ms=self.first_max_age_s * 1e3 or None,
            first_share=self.first_share,
        )


class ShadowPolicyGroup(_Group):
    """A policy that is scored on live requests and shown to nobody; what it does not set is as it is served."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="what it is called in metrics")
    policy: dict[str, Any] = Field(default_factory=dict, description="settings of `policy.` that differ")
    slate: dict[str, Any] = Field(default_factory=dict, description="settings of `slate.` that differ")


class ShadowGroup(_Group):
    """Which policies are followed beside the traffic, and on how much of it."""

    policies: tuple[ShadowPolicyGroup, ...] = Field(default=(), max_length=8)
    share: float = Field(default=1 / 16, gt=0, le=1, description="of requests, chosen by their ids")
    max_pending: int = Field(default=20_000, ge=1, description="slates that wait for rewards; the oldest go first")
    window_ms: int | None = Field(default=None, ge=1, description="how long they wait; none = `join.window_ms`")

    @field_validator("policies")
    @classmethod
    def _names_differ(cls, value: tuple[ShadowPolicyGroup, ...]) -> tuple[ShadowPolicyGroup, ...]:
        names = [policy.name for policy in value]
        if len(set(names)) < len(names):
            raise ValueError(f"expected distinct names, got {', '.join(names)}")
        return value


class ContextGroup(_Group):
    """How a user's embedding becomes weights over clusters."""

    k: int = Field(default=10, ge=1, le=64, description="clusters of a user")
    temperature: float = Field(default=0.1, gt=0, le=65_536, description="tau of the softmax")


class JoinGroup(_Group):
    """`bandits.join_rule.JoinRule`: when a click counts, and what it is worth."""

    window_ms: int = Field(default=JoinRule.window_ms, ge=1)
    max_delay_ms: int = Field(default=JoinRule.max_delay_ms, ge=0)
    max_skew_ms: int = Field(default=JoinRule.max_skew_ms, ge=0)
    kind_weights: dict[str, float] = Field(default_factory=lambda: JoinRule().kind_weights, min_length=1)
    reward_cap: float = Field(default=JoinRule.reward_cap, gt=0, le=MAX_REWARD_CAP)
    max_pending_rows: int = Field(default=JoinRule.max_pending_rows, ge=1)
    max_waiting_clicks: int = Field(default=JoinRule.max_waiting_clicks, ge=1)
    kind_caps: dict[str, float] = Field(default={}, description="most that a kind is worth on one shown item")
    kind_aggregations: dict[str, Aggregation] = Field(default={}, description="of several reactions of a kind")
    across_kinds: Aggregation = Field(default="first", description="of several kinds on one shown item")
    resolution: Resolution = Field(default="immediate", description="when an impression counts")
    position_gammas: tuple[float, ...] = Field(default=(), description="how likely each slot is looked at")
    half_life_ms: int = Field(default=0, description="after which an impression counts half as much; 0 = never")
    surfaces: tuple[str, ...] = Field(default=(), description='learned from; empty = all, "" = those without one')

    @model_validator(mode="after")
    def _in_range(self) -> "JoinGroup":
        self.rule()
        longest = max((len(surface.encode()) for surface in self.surfaces), default=0)
        if longest > MAX_SURFACE_BYTES:
            raise ValueError(f"surfaces: expected names of at most {MAX_SURFACE_BYTES} bytes, got {longest} bytes")
        return self

    def rule(self) -> JoinRule:
        """As the joiner takes it."""
        return JoinRule(**self.model_dump())


class LoopGroup(_Group):
    """`streams.embedded.LoopLimits`: bounds of the loop that learns."""

    max_queued_events: int = Field(default=LoopLimits.max_queued_events, ge=1)
    max_batch_events: int = Field(default=LoopLimits.max_batch_events, ge=1)
    retry_after_ms: int = Field(default=LoopLimits.retry_after_ms, ge=1)
    max_edited_items: int = Field(default=LoopLimits.max_edited_items, ge=1)

    def limits(self) -> LoopLimits:
        """As the loop takes them."""
        return LoopLimits(**self.model_dump())


class ServerGroup(_Group):
    """How many processes serve. Where there are several they share the parameters' memory, and one more learns."""

    processes: int = Field(default=1, ge=1, le=MAX_READERS, description="that answer callers, on one port")
    tls_certificate: Path | None = Field(default=None, description="PEM, of both gRPC addresses; None = plain text")
    tls_key: Path | None = Field(default=None, description="its key, PEM without a passphrase")
    tls_client_ca: Path | None = Field(default=None, description="PEM; callers need a certificate of these")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "ServerGroup":
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, other = ("tls_key", "tls_certificate") if self.tls_key else ("tls_certificate", "tls_key")
            raise ValueError(f"{other}: expected it with server.{given}, got none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_certificate: expected it with server.tls_client_ca, got none")
        return self


class RpcGroup(_Group):
    """Bounds on calls."""

    score_in_flight: int = Field(default=64, ge=1, le=1_000, description="RecommenderService calls at once")
    feedback_in_flight: int = Field(default=64, ge=1, le=1_000, description="FeedbackService calls at once")
    streams_in_flight: int = Field(default=16, ge=1, le=1_000, description="ScoreStreams open at once")
    operations_in_flight: int = Field(default=4, ge=1, le=100, description="OperationsService calls at once")
    max_concurrent: int = Field(default=1_024, ge=1, description="calls at once, waiting ones included")
    max_message_bytes: int = Field(default=16 << 20, ge=1 << 10, le=1 << 30, description="largest request")
    longest_wait_ms: int = Field(default=10_000, ge=1, description="longest wait for feedback to be durable")
    retry_after_ms: int = Field(default=50, ge=1, description="told to callers who find no place")


class LogGroup(_Group):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = Field(default="auto", description="auto = console on a terminal")


class _Secrets(NestedSecretsSettingsSource):
    """Files named as the variables, those of groups too; what others keep there is not read."""

    @classmethod
    def load_secrets(cls, path: Path) -> dict[str, str]:
        ours = (file for file in path.iterdir() if file.name.upper().startswith(PREFIX) and file.is_file())
        return {file.name: file.read_text("utf-8").strip() for file in ours}


class Settings(BaseSettings):
    """Everything that can be set. Use `load_settings`, which reads the file and explains errors."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    address: str = Field(default="127.0.0.1:50051", description="where callers score and send feedback")
    operations_address: str = Field(default="127.0.0.1:50052", description="for the operators' network")
    http_address: str = Field(default="127.0.0.1:8080", description="metrics, health and the console page")
    data_dir: Path = Field(default=Path("freshet-data"), description="the store; one process at a time")
    graph: Path | None = Field(default=None, description="artifact that an empty store starts from")
    graph_dir: Path | None = Field(default=None, description="LoadGraph loads from inside this directory only")
    graph_watch_s: float = Field(default=0.0, ge=0, le=86_400, description="seconds between looks into graph_dir")
    item_tower: Path | None = Field(default=None, description="folder of `freshet train`: places items by content")
    backend: Literal["auto", "numba", "numpy", "cupy"] = "auto"
    gpu_crossover: int = Field(default=0, ge=0, description="facts of a batch from which on a GPU adds; 0 = none")
    server: ServerGroup = ServerGroup()
    policy: PolicyGroup = PolicyGroup()
    slate: SlateGroup = SlateGroup()
    life_cycle: LifeCycleGroup = LifeCycleGroup()
    shadow: ShadowGroup = ShadowGroup()
    context: ContextGroup = ContextGroup()
    join: JoinGroup = JoinGroup()
    loop: LoopGroup = LoopGroup()
    kafka: KafkaGroup = KafkaGroup()
    rpc: RpcGroup = RpcGroup()
    log: LogGroup = LogGroup()

    @field_validator("address", "operations_address", "http_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value

    @model_validator(mode="after")
    def _can_watch(self) -> "Settings":
        if self.graph_watch_s and self.graph_dir is None:
            raise ValueError("graph_watch_s: expected graph_dir to be set with it, got none")
        return self

    @model_validator(mode="after")
    def _shadows_are_policies(self) -> "Settings":
        for at, shadow in enumerate(self.shadow.policies):
            for name, group, given in (("policy", self.policy, shadow.policy), ("slate", self.slate, shadow.slate)):
                try:
                    merged = type(group)(**(group.model_dump() | given))
                except ValidationError as error:
                    raise ValueError(f"shadow.policies.{at}.{name}.{_line(error.errors()[0])}") from None
                given |= {key: getattr(merged, key) for key in given}  # as they are meant, not as they were written
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources, strongest first."""
        return init_settings, env_settings, _Secrets(file_secret_settings), TomlConfigSettingsSource(settings_cls)

    def redacted(self) -> dict[str, Any]:
        """All settings as plain values for printing; secrets are masked."""
        return self.model_dump(mode="json")

    def handed_on(self) -> dict[str, Any]:
        """All settings as plain values for a process of ours, secrets in clear: never to be printed."""
        values, password = self.redacted(), self.kafka.sasl_password
        if password is not None:
            values["kafka"]["sasl_password"] = password.get_secret_value()
        return values


def load_settings(
    config_file: Path | None = None, *, secrets_dir: Path = SECRETS_DIR, **overrides: Any
) -> Settings:
    """Settings from all sources.

    Args:
        config_file: a TOML file; None = the one that `FRESHET_CONFIG` names, if it names one.
        secrets_dir: files named as the variables; passed over where it does not exist.
        overrides: the strongest source; groups as dicts.

    Raises:
        SettingsError: one line for each field that is wrong.
    """
    path = config_file or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    _check_file(path)
    _check_environment(os.environ)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path, secrets_dir=secrets_dir if secrets_dir.is_dir() else None)

    try:
        return FromFile(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_line, error.errors()))) from None


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Examples:
        >>> split_address("127.0.0.1:0"), split_address("[::1]:8080")
        (('127.0.0.1', 0), ('::1', 8080))
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"expected host:port with a port from 0 to 65535, got {address!r}")
    return match["host"].strip("[]"), int(match["port"])


def _check_file(path: Path | None) -> None:
    # The source passes over a file that is not there, and does not name one that it cannot read.
    if path is None:
        return
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{path}: expected a readable TOML file, got {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: expected TOML, got {error}") from None
    if isinstance(kafka := found.get("kafka"), dict) and "sasl_password" in kafka:
        raise SettingsError(
            f"kafka.sasl_password: expected it in the environment ({PREFIX}KAFKA__SASL_PASSWORD), or its file's "
            f"name in kafka.sasl_password_file, got it in {path}"
        )


def _check_environment(environment: Mapping[str, str]) -> None:
    # The source reads the variables that it knows, so a misspelt one would be passed over silently.
    for name in environment:
        field = name.upper().removeprefix(PREFIX).partition("__")[0].lower()
        ours = name.upper().startswith(PREFIX) and not _OTHER_VARIABLES.fullmatch(name.upper())
        if ours and field not in Settings.model_fields:
            known = ", ".join(Settings.model_fields)
            raise SettingsError(f"{name}: expected {PREFIX} and one of {known}, got an unknown name")


def _line(error: Any) -> str:
    """One error as "field: expected ..., got ..."."""
    field = ".".join(map(str, error["loc"])) or "settings"
    if field.endswith("sasl_password"):
        return f"{field}: expected a text that is not empty"  # what came is not to be shown
    if error["type"] == "extra_forbidden":
        return f"{field}: expected a known setting, got an unknown name"
    message = error["msg"].removeprefix("Value error, ")
    if ": expected" in message:  # a group that checks itself names its own field
        return f"{field}.{message}" if error["loc"] else message
    if message.startswith("expected"):
        return f"{field}: {message}"
    expected = message[0].lower() + message[1:]
    return f"{field}: expected: {expected}, got {error['input']!r}"
