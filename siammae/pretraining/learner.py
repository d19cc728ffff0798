"""The network in training: on one device, copied to several, or cut into parts that several hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from siammae.config import PretrainConfig
from siammae.distributed import Processes
from siammae.network.defaults import float32_on_cpu
from siammae.network.model import SiamMAE
from siammae.network.pretraining_model import set_fused_attention, set_recompute
from siammae.pretraining.schedule import parameter_groups


class Learner:
    """What changes from step to step: weights, their optimiser, their running average, the scale of a float16 loss.

    Attributes:
        model: the network; under FSDP its weights are parts.
        network: what a training step calls, with the arguments of :meth:`SiamMAE.forward`.
        optimizer: AdamW.
        scaler: of the loss; does nothing but for float16.
        changing: whether a step is half done, so that the weights belong to none.

    Args:
        config: everything that is learnt depends on; its precision is settled.
        device: of this process.
        processes: the processes that share the work.
        random: whether to begin with random weights although ``init`` names others: a saved state will replace them.

    Raises:
        ValueError: ``init`` is a network of another shape.
    """

    def __init__(self, config: PretrainConfig, device: torch.device, processes: Processes, *, random: bool) -> None:
        self._config, self._processes = config, processes
        self.changing = False
        self.model = _make_model(config, random=random).to(device).train()
        set_fused_attention(self.model, device.type != "cpu" or config.precision == "fp32")
        set_recompute(self.model, config.recompute)
        if config.compile:
            for part in (self.model.encoder, self.model.decoder):
                if part is not None:
                    part.compile(dynamic=False)  # one graph for whole frames, one for visible patches
        self.network: nn.Module = self.model
        if processes.count > 1 and config.parallel == "fsdp":
            _cut(self.model)
        elif processes.count > 1:
            self.network = DistributedDataParallel(
                self.model, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
            )
        groups = parameter_groups(self.model, config.weight_decay, config.layer_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._average = None if config.ema is None else [weight.detach().clone() for weight in self.model.parameters()]

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.model.device

    @contextmanager
    def exchanging(self, wanted: bool) -> Iterator[None]:
        """Let gradients be added up over all processes in the backward passes inside, or not: the last part does."""
        if isinstance(self.network, DistributedDataParallel) and not wanted:
            with self.network.no_sync():
                yield
            return
        if isinstance(self.model, _fsdp_module()):
            self.model.set_requires_gradient_sync(wanted)
        yield

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the running average towards the weights after a step, numbered from 0.

        It begins with short memory, as the first weights are random: the decay is at most ``(1 + step) / (10 + step)``.
        """
        if self._average is None or self._config.ema is None:
            return
        decay = min(self._config.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, list(self.model.parameters()), 1 - decay)

    def state(self) -> dict[str, Any]:
        """Return everything, whole and in the CPU's memory, in one form however many processes share it.

        With FSDP all processes must call this.
        """
        parts: dict[str, Any] = {"model": _whole(self.model.state_dict()), "optimizer": self._optimizer_state()}
        if self._average is not None:
            parts["average"] = [_whole_tensor(weight) for weight in self._average]
        if self.scaler.is_enabled():
            parts["scaler"] = self.scaler.state_dict()
        return parts

    def _optimizer_state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        return {**state, "state": {number: _whole(moments) for number, moments in state["state"].items()}}

    def restore(self, parts: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        like = self.model.state_dict()
        self.model.load_state_dict({name: _part(tensor, like[name]) for name, tensor in parts["model"].items()})
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        moments = {
            number: {name: _part(tensor, weights[number]) for name, tensor in values.items()}
            for number, values in parts["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**parts["optimizer"], "state": moments})
        if self._average is not None:
            for mine, saved in zip(self._average, parts["average"], strict=True):
                mine.copy_(_part(saved, mine))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(parts["scaler"])

    def copies(self) -> dict[str, SiamMAE]:
        """Return the network as it is now, plain and in eval mode, by the name of its folder; the average too.

        With FSDP all processes must call this.
        """
        copies = {"model": _plain_copy(self._config, self.model.state_dict(), self.device)}
        if self._average is not None:
            names = (name for name, _ in self.model.named_parameters())
            averaged = {**self.model.state_dict(), **dict(zip(names, self._average, strict=True))}
            copies["model_ema"] = _plain_copy(self._config, averaged, self.device)
        return copies


def _make_model(config: PretrainConfig, *, random: bool) -> SiamMAE:
    with torch.random.fork_rng(devices=[]), float32_on_cpu():
        torch.manual_seed(config.seed)
        fresh = random or config.init is None
        model = SiamMAE(config.model) if fresh else SiamMAE.from_pretrained(config.init or "", dtype=torch.float32)
    model.drop_whitening()  # it belongs to the weights before training
    if model.config != config.model:
        raise ValueError(f"init={config.init!r} is a network of {model.config}, but model is {config.model}.")
    return model


def _plain_copy(config: PretrainConfig, tensors: Mapping[str, Tensor], device: torch.device) -> SiamMAE:
    with torch.random.fork_rng(devices=[]), float32_on_cpu():
        copy = SiamMAE(config.model)
    copy.load_state_dict(_whole(tensors))
    copy.name = config.output_dir
    return copy.to(device).eval()


def _fsdp_module() -> type[Any]:
    """Return FSDP2's class, imported where it is needed only: that takes a second."""
    if not dist.is_available() or not dist.is_initialized():
        return type(None)
    from torch.distributed.fsdp import FSDPModule

    return FSDPModule


def _cut(model: SiamMAE) -> None:
    """Cut the weights of every block, and those of the rest, into a part for each process (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if model.device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise ValueError(
            f"parallel is 'fsdp' on the CPU, which PyTorch {torch.__version__} cannot do: use 'ddp' or a newer one."
        )
    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    networks = [part for part in (model.encoder, model.decoder) if part is not None]
    for block in (block for network in networks for block in network.blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _whole_tensor(value: Any) -> Any:  # noqa: ANN401 -- a tensor, a part of one, or a number
    """Return a tensor whole, in the CPU's memory, and its own; anything else as it is."""
    if hasattr(value, "full_tensor"):
        value = value.full_tensor()
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _whole(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _whole_tensor(value) for name, value in tensors.items()}


def _part(value: Any, like: Any) -> Any:  # noqa: ANN401 -- a tensor, a part of one, or a number
    """Return this process's part of a whole tensor where ``like`` is a part; anything else as it is."""
    if not isinstance(value, Tensor) or value.ndim == 0 or not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
