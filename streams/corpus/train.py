"""Training of the two towers on the earlier part of a log, and what comes out of it.

Invariants: a tower is chosen by the validation part and reported on the test part, both later than everything it
learned from; the same log, settings and seed give the same embeddings on the same machine, interrupted or not.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bandits.graph import Float32, Int32, Int64
from streams.corpus.errors import CorpusError
from streams.corpus.features import FeatureEncoder, fit_features
from streams.corpus.held_out import HeldOut
from streams.corpus.interactions import Histories, Interactions, Split, split_by_time
from streams.corpus.item_place import ItemPlace
from streams.corpus.recall import Recall, Scorer, by_embeddings, popularity, ranks, recall
from streams.corpus.towers import embed_items, embed_users, first_parameters
from streams.corpus.train_checkpoint import Checkpoint, identify, load_checkpoint, save_checkpoint
from streams.corpus.train_step import ModelSettings, Trainer, make_trainer

_MOST_VALIDATED = 3_000  # events
CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long to train, and on which part.

    Attributes:
        model: the towers.
        epochs: passes over the training part.
        validation_share: of the events, after the training part.
        test_share: of the events, the latest.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    epochs: int = 10
    validation_share: float = 0.1
    test_share: float = 0.1


@dataclass(frozen=True)
class TrainReport:
    """What training came to.

    Attributes:
        log: name of the log.
        device: where it ran, such as "cpu".
        train_events: likes learned from.
        test_events: likes of the test part.
        test_new_items: of them, likes of items without a like in the training part.
        cut_ms: time of the first validation event; nothing from it on was learned from.
        test_from_ms: time of the first test event.
        best_epoch: the epoch kept, from 1.
        curve: of each epoch, loss and recall at 50 on the validation part.
        model: recall at 50 on the test part.
        popularity: of ranking by likes in the training part.
        recent_popularity: of ranking by likes in its latest tenth.
    """

    log: str
    device: str
    train_events: int
    test_events: int
    test_new_items: int
    cut_ms: int
    test_from_ms: int
    best_epoch: int
    curve: list[dict[str, float]]
    model: Recall
    popularity: Recall
    recent_popularity: Recall


class Training:
    """A log made ready to learn from.

    Attributes:
        log: the log.
        split: its parts.
    """

    def __init__(self, log: Interactions, settings: TrainSettings) -> None:
        self.log, self.settings = log, settings
        self.split: Split = split_by_time(
            log, validation_share=settings.validation_share, test_share=settings.test_share
        )
        if self.split.train_end < settings.model.batch:
            raise CorpusError(f"{log.name}: expected {settings.model.batch} events (a batch), got fewer")
        self._histories = Histories.of(log)
        self.item_encoder = fit_features(log.item_columns, log.item_table)
        user_encoder: FeatureEncoder = fit_features(log.user_columns, log.user_table)
        self._content = self.item_encoder.encode(log.item_table)
        self._features = user_encoder.encode(log.user_table)
        share = np.bincount(log.item[: self.split.train_end], minlength=len(log.item_ids)) / self.split.train_end
        self._known = share > 0
        self._log_q = np.log(np.maximum(share, 1e-12)).astype(np.float32)

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return self.split.train_end // self.settings.model.batch

    def run(
        self,
        folder: Path,
        *,
        resume: bool = False,
        told: Callable[[int, dict[str, float]], None],
        stepped: Callable[[int], None] = lambda done: None,
    ) -> tuple[TrainReport, dict[str, Float32]]:
        """Train, keeping a checkpoint after every epoch in `folder`.

        Args:
            folder: exists.
            resume: go on from the checkpoint there, if there is one.
            told: epochs done and the last one's numbers.
            stepped: steps done, of `epochs * steps`; told now and then.

        Returns:
            The report and the parameters of the best epoch.

        Raises:
            CorpusError: the checkpoint is damaged or another training's.
            MissingLibrary: JAX or Optax is not installed.
        """
        model = self.settings.model
        trainer = make_trainer(model, content=self._content, features=self._features, log_q=self._log_q)
        log, end = self.log, self.split.train_end
        identity = identify(asdict(model), log.user[:end], log.item[:end], self._content, self._features)
        path = folder / CHECKPOINT
        done = load_checkpoint(path, identity) if resume and path.exists() else self._fresh(trainer, identity)
        while done.epoch < self.settings.epochs:
            done = self._epoch(trainer, done, stepped)
            save_checkpoint(done, path)
            told(done.epoch, done.curve[-1])
        best: dict[str, Float32] = {name: np.asarray(array) for name, array in done.best.items()}
        return self._report(trainer.device, done.curve, best), best

    def export(self, parameters: dict[str, Float32], report: TrainReport, folder: Path) -> None:
        """Write embeddings and ids for `freshet build-graph`, the item tower and the report.

        Users are where they were at the end of the training part. Items that it does not have are placed by their
        content.
        """
        log = self.log
        items = embed_items(parameters, self._content, self._known)
        everyone = np.arange(len(log.user_ids), dtype=np.int32)
        history = self._histories.at(everyone, self.split.train_end, self.settings.model.history)
        np.save(folder / "item_embeddings.npy", items, allow_pickle=False)
        np.save(
            folder / "user_embeddings.npy",
            embed_users(parameters, items, history, self._features),
            allow_pickle=False,
        )
        for name, ids in (("item_ids.txt", log.item_ids), ("user_ids.txt", log.user_ids)):
            (folder / name).write_text("".join(f"{external}\n" for external in ids), "utf-8")
        ItemPlace(self.item_encoder, parameters).save(folder)
        body = orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)  # NaN is null
        (folder / "training.json").write_bytes(body)

    def later_users(self, *, least_likes: int) -> Int32:
        """Users that liked at least so many items in the test part.

        Raises:
            CorpusError: there are none.
        """
        likes = np.bincount(self.log.user[self.split.validation_end :])
        chosen = np.flatnonzero(likes >= least_likes).astype(np.int32)
        if not len(chosen):
            most = f"nobody has more than {likes.max()}"
            raise CorpusError(f"{self.log.name}: expected users with {least_likes} likes in the test part, {most}")
        return chosen

    def held_out(self, parameters: dict[str, Float32], chosen: Int32) -> HeldOut:
        """Users as they were when the test part began, and what they liked in it.

        New items are those of the test part that nobody had liked before it; they are placed by content alone.
        """
        log, begin = self.log, self.split.validation_end
        user, item = log.user[begin:], log.item[begin:]
        items = embed_items(parameters, self._content, self._known)
        history = self._histories.at(chosen, begin, self.settings.model.history)
        kept = np.isin(user, chosen)
        order = np.lexsort((item[kept], user[kept]))
        _, first = np.unique(item, return_index=True)
        by_first_like = item[np.sort(first)]
        new = by_first_like[~np.isin(by_first_like, log.item[:begin])]
        place = ItemPlace(self.item_encoder, parameters)
        rows = {name: [cells[number] for number in new.tolist()] for name, cells in log.item_table.items()}
        return HeldOut(
            user_ids=[log.user_ids[number] for number in chosen.tolist()],
            users=embed_users(parameters, items, history, self._features[chosen]),
            item_ids=log.item_ids,
            like_ptr=np.searchsorted(user[kept][order], np.append(chosen, len(log.user_ids))),
            like_item=item[kept][order],
            new_items=new,
            new_embeddings=place.embed(rows),
        )

    def _fresh(self, trainer: Trainer, identity: str) -> Checkpoint:
        model = self.settings.model
        parameters = first_parameters(
            n_items=len(self.log.item_ids),
            item_features=self._content.shape[1],
            user_features=self._features.shape[1],
            hidden=model.hidden,
            dim=model.dim,
            seed=model.seed,
        )
        state = [np.asarray(leaf) for leaf in trainer.leaves(trainer.start(parameters))]
        return Checkpoint(identity, 0, parameters, state, parameters, [])

    def _epoch(self, trainer: Trainer, done: Checkpoint, stepped: Callable[[int], None]) -> Checkpoint:
        """One pass over the training part in an order of its own."""
        model, log = self.settings.model, self.log
        end = self.split.train_end
        order = np.random.default_rng([model.seed, done.epoch]).permutation(end)
        parameters: Any = dict(done.parameters)
        state = trainer.rebuild(trainer.start(parameters), done.state)
        steps, losses = self.steps, []
        for number in range(steps):
            event = order[number * model.batch : (number + 1) * model.batch]
            user, item = log.user[event], log.item[event]
            history = self._histories.before(user, event, model.history)
            at = done.epoch * steps + number
            parameters, state, loss = trainer.step(parameters, state, user, item, history, at)
            losses.append(loss)
            stepped(at + 1)
        arrays = {name: np.asarray(array) for name, array in parameters.items()}
        found = self._recall(self._scorer(arrays), self._validation_events())
        numbers = {"loss": float(np.mean([float(loss) for loss in losses])), "validation_recall": found.all}
        better = found.all > max((epoch["validation_recall"] for epoch in done.curve), default=-1.0)
        leaves = [np.asarray(leaf) for leaf in trainer.leaves(state)]
        best = arrays if better else done.best
        return Checkpoint(done.identity, done.epoch + 1, arrays, leaves, best, [*done.curve, numbers])

    def _validation_events(self) -> Int64:
        begin, end = self.split.train_end, self.split.validation_end
        rng = np.random.default_rng(self.settings.model.seed)
        return begin + np.sort(rng.permutation(end - begin)[:_MOST_VALIDATED])

    def _scorer(self, parameters: dict[str, Float32]) -> Scorer:
        items = embed_items(parameters, self._content, self._known)

        def users(events: Int64) -> Float32:
            who = self.log.user[events]
            history = self._histories.before(who, events, self.settings.model.history)
            return embed_users(parameters, items, history, self._features[who])

        return by_embeddings(users, items)

    def _recall(self, scorer: Scorer, events: Int64) -> Recall:
        places = ranks(self.log, self._histories, events, scorer)
        return recall(self.log, places, events, learned=self.split.train_end)

    def _report(self, device: str, curve: list[dict[str, float]], best: dict[str, Float32]) -> TrainReport:
        log, end = self.log, self.split.train_end
        test = np.arange(self.split.validation_end, len(log))
        n_items = len(log.item_ids)
        return TrainReport(
            log=log.name,
            device=device,
            train_events=end,
            test_events=len(test),
            test_new_items=int((~self._known[log.item[test]]).sum()),
            cut_ms=int(log.time_ms[end]),
            test_from_ms=int(log.time_ms[self.split.validation_end]),
            best_epoch=1 + int(np.argmax([epoch["validation_recall"] for epoch in curve])),
            curve=curve,
            model=self._recall(self._scorer(best), test),
            popularity=self._recall(popularity(log.item[:end], n_items), test),
            recent_popularity=self._recall(popularity(log.item[end - end // 10 : end], n_items), test),
        )
