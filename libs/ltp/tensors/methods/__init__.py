"""Merge methods, one pure function each, by mergekit's names."""

from collections.abc import Callable, Mapping

from ltp.tensors.methods.inputs import Inputs, Merged, Settings
from ltp.tensors.methods.linear import linear, nearswap, passthrough
from ltp.tensors.methods.sce import sce
from ltp.tensors.methods.sphere import karcher, model_stock, multislerp, nuslerp, slerp
from ltp.tensors.methods.task_vectors import (
    breadcrumbs,
    breadcrumbs_ties,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    task_arithmetic,
    ties,
)

MERGES: Mapping[str, Callable[[Inputs, Settings], Merged]] = {
    function.__name__: function
    for function in (
        linear,
        slerp,
        nuslerp,
        multislerp,
        karcher,
        model_stock,
        nearswap,
        sce,
        passthrough,
        task_arithmetic,
        ties,
        dare_linear,
        dare_ties,
        breadcrumbs,
        breadcrumbs_ties,
        della,
        della_linear,
    )
}
