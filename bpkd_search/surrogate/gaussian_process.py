"""A Gaussian process over a space: what the mean over seeds at full budget is, at any point, and how sure that is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, cached_property, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.gaussian_process import GaussianProcessRegressor  # type: ignore[import-untyped]
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from bpkd_search.surrogate.encoding import Vectors

Values = NDArray[np.float64]
# Prior means and deviations of the logarithms of the kernel's parameters, for values of unit variance in a unit cube.
# Noise: between-seed variance is some 0.2 of all variance in distillation searches. Length scales grow with
# the root of the dimensions, as distances do (Hvarfner et al. 2024, arXiv 2402.02229).
_SIGNAL = (math.log(0.7), 0.7)
_NOISE = (math.log(0.2), 0.7)
_LENGTH = (math.log(0.5), 0.7)
_MOST_STEPS = 30

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _libraries() -> ThreadpoolController:
    """Finding them takes longer than a fit."""
    return ThreadpoolController()


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function's algebra run in one thread: matrices are small, and trials train on the other cores."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _libraries().limit(limits=1):
            return function(*args, **kwargs)

    return limited


class Prediction(NamedTuple):
    """Mean and standard deviation of the mean over seeds, each float64 [points]."""

    mean: Values
    deviation: Values


@one_thread
def fit_kernel(vectors: Vectors, values: Values, variance: Values, scale: Values) -> Kernel:
    """The kernel with the most probable parameters: a Matern 5/2 kernel with a length scale an axis, and noise.

    The arguments are those of `Surrogate`. The same input gives the same kernel.
    """
    prior = prior_kernel(vectors.shape[1])
    if len(scale) < 2 or np.ptp(scale) == 0:
        return prior
    noise = 1e-10 + variance / (float(scale.var()) or 1.0)
    return _process(prior, noise, _most_probable).fit(vectors, _scaled(values, scale)).kernel_


class Surrogate:
    """A Gaussian process with a known kernel, given what trials came to.

    `values` at `vectors` are those of full-budget trials, or forecasts of them; `variance`, float64 [n], is how unsure
    a forecast is, in squared units of the values, and zero for a trial that ran in full. Forecasts are wrong together
    where points are alike: what early reports do not tell of the end is a function of the space too. `scale` are the
    values that the kernel was fitted to.
    """

    @one_thread
    def __init__(self, kernel: Kernel, vectors: Vectors, values: Values, variance: Values, scale: Values) -> None:
        self._mean, self._deviation = float(scale.mean()), float(scale.std()) or 1.0
        self._signal, self._noise, self._vectors, self._values = kernel.k1, _white(kernel), vectors, values
        prior = float(kernel.k1.k1.constant_value) + self._noise
        # A forecast of variance v is an observation that is as far from the end as 1 + v / prior tells; two of them
        # share what the later one lacks.
        lacks = 1 + variance / self._deviation**2 / prior
        shared = np.minimum(lacks[:, None], lacks[None])
        covariance = self._signal(vectors) * shared + np.diag(self._noise * lacks + 1e-10)
        self._factor = cholesky(covariance, lower=True)
        self._weights = cho_solve((self._factor, True), self._scaled(values))

    @property
    def noise(self) -> float:
        """Standard deviation between seeds."""
        return self._deviation * math.sqrt(self._noise)

    @one_thread
    def predict(self, vectors: Vectors) -> Prediction:
        """The mean over seeds at each of the points."""
        across = self._signal(vectors, self._vectors)
        known = solve_triangular(self._factor, across.T, lower=True)
        variance = np.maximum(self._signal.diag(vectors) - (known**2).sum(0), 1e-12)
        return Prediction(self._mean + self._deviation * (across @ self._weights), self._deviation * np.sqrt(variance))

    @one_thread
    def together(self, vectors: Vectors) -> tuple[Values, Values]:
        """The same with the covariance of the points, float64 [points, points], instead of deviations."""
        across = self._signal(vectors, self._vectors)
        known = solve_triangular(self._factor, across.T, lower=True)
        covariance = self._signal(vectors) - known.T @ known
        return self._mean + self._deviation * (across @ self._weights), self._deviation**2 * covariance

    def improvement(self, vectors: Vectors, best: float) -> Values:
        """By how much each point's mean over seeds is expected to exceed `best`, float64 [points]."""
        mean, deviation = self.predict(vectors)
        ahead = (mean - best) / deviation
        return np.asarray(deviation * (ahead * norm.cdf(ahead) + norm.pdf(ahead)), dtype=np.float64)

    @cached_property
    @one_thread
    def held_out(self) -> Prediction:
        """Each trial's value as all others predict it, with the deviation of a value, noise included."""
        inverse = cho_solve((self._factor, True), np.eye(len(self._values)))
        variance = 1 / np.diag(inverse)
        return Prediction(
            self._values - self._deviation * variance * self._weights, self._deviation * np.sqrt(variance)
        )

    def _scaled(self, values: Values) -> Values:
        return (values - self._mean) / self._deviation


def prior_kernel(width: int) -> Kernel:
    """The kernel before anything is known, for vectors of `width`."""
    lengths = np.full(width, math.exp(_LENGTH[0]) * math.sqrt(width))
    signal = ConstantKernel(math.exp(_SIGNAL[0]), (1e-3, 1e2)) * Matern(lengths, (1e-2, 1e3), nu=2.5)
    return signal + WhiteKernel(math.exp(_NOISE[0]), (1e-4, 1e1))


def _most_probable(
    objective: Callable[..., tuple[float, Values]], initial: Values, bounds: Values
) -> tuple[Values, float]:
    """Minimise the negative log likelihood less the log prior of the kernel's log parameters.

    They come in the kernel's order: signal, length scales, noise; `initial` holds the prior means.
    """
    spread = np.array([_SIGNAL[1], *[_LENGTH[1]] * (len(initial) - 2), _NOISE[1]])

    def loss(theta: Values) -> tuple[float, Values]:
        value, gradient = objective(theta, eval_gradient=True)
        away = (theta - initial) / spread
        return value + 0.5 * float(away @ away), gradient + away / spread

    limits = [(float(low), float(high)) for low, high in bounds]
    found = minimize(loss, initial, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": _MOST_STEPS})
    return np.asarray(found.x, dtype=np.float64), float(found.fun)


def _process(kernel: Kernel, noise: Any, optimizer: Any) -> GaussianProcessRegressor:
    warnings.simplefilter("ignore", ConvergenceWarning)
    return GaussianProcessRegressor(kernel, alpha=noise, optimizer=optimizer)


def _scaled(values: Values, by: Values) -> Values:
    return np.asarray((values - by.mean()) / (float(by.std()) or 1.0), dtype=np.float64)


def _white(kernel: Any) -> float:
    return float(kernel.k2.noise_level)
