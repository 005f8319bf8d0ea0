"""A GPU for machines that have none: arrays in main memory that, as CuPy's, never mix with numpy's.

`install` puts it in the place of CuPy and of the CUDA kernels. What runs on it has asked for every transfer by name;
whether the kernels themselves are right, only a GPU can tell (`test_cuda.py`).
"""

from __future__ import annotations

import operator
import sys
import types

import numpy as np

from braggd.phasing import arrays, plain


class Array:
    """Wraps a numpy array and refuses those that are not wrapped."""

    __array_priority__ = 1000

    def __init__(self, inner):
        self.inner = np.asarray(inner)

    shape = property(lambda self: self.inner.shape)
    size = property(lambda self: self.inner.size)
    dtype = property(lambda self: self.inner.dtype)
    ndim = property(lambda self: self.inner.ndim)
    flags = property(lambda self: self.inner.flags)

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion of a GPU's array to numpy's; call to_host")

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        return wrapped(getattr(ufunc, method), *inputs, **keywords)

    def __array_function__(self, function, _types, inputs, keywords):
        return wrapped(function, *inputs, **keywords)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, key):
        return Array(self.inner[bare(key)])

    def __setitem__(self, key, value):
        self.inner[bare(key)] = bare(value)

    def __getattr__(self, name):
        if name.startswith("__"):  # numpy would find the array by its interface
            raise AttributeError(name)
        found = getattr(self.inner, name)
        return (lambda *inputs, **keywords: wrapped(found, *inputs, **keywords)) if callable(found) else found

    def get(self):
        return self.inner.copy()

    def __float__(self):
        return float(self.inner)

    def __int__(self):
        return int(self.inner)

    def __bool__(self):
        return bool(self.inner)


def _operator(name, function):
    setattr(Array, f"__{name}__", lambda self, other: wrapped(function, self, other))
    if name not in ("gt", "ge", "lt", "le", "eq", "ne"):
        setattr(Array, f"__r{name}__", lambda self, other: wrapped(function, other, self))


for _name in ("add", "sub", "mul", "truediv", "pow", "gt", "ge", "lt", "le", "eq", "ne"):
    _operator(_name, getattr(operator, _name))
_operator("and", operator.and_)
_operator("or", operator.or_)
for _name in ("iadd", "isub", "imul", "itruediv"):

    def _in_place(self, other, function=getattr(operator, _name)):
        self.inner = function(self.inner, bare(other))
        return self

    setattr(Array, f"__{_name}__", _in_place)
Array.__neg__ = lambda self: Array(-self.inner)
Array.__invert__ = lambda self: Array(~self.inner)


def bare(value):
    """What is wrapped; numpy's arrays of one dimension and more do not belong here."""
    if isinstance(value, Array):
        return value.inner
    if isinstance(value, (tuple, list)):
        return type(value)(bare(one) for one in value)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("a numpy array among a GPU's; call to_device")
    return value


def wrapped(function, *inputs, **keywords):
    """Do it on the wrapped arrays; what comes of it is wrapped, and what was given as `out` is itself."""
    result = function(*(bare(one) for one in inputs), **{name: bare(one) for name, one in keywords.items()})
    if keywords.get("out") is not None:
        return keywords["out"][0] if isinstance(keywords["out"], tuple) else keywords["out"]
    return wrap(result)


def wrap(result):
    if isinstance(result, (tuple, list)):
        return type(result)(wrap(one) for one in result)
    return Array(result) if isinstance(result, (np.ndarray, np.generic)) else result


class _Namespace(types.ModuleType):
    """numpy's functions on wrapped arrays."""

    def __getattr__(self, name):
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *inputs, **keywords: wrapped(found, *inputs, **keywords)


def _cupy():
    module = _Namespace("cupy")
    module.asarray = lambda array, *_: array if isinstance(array, Array) else Array(np.array(array))
    module.fft = types.SimpleNamespace(
        fftshift=lambda array: wrapped(np.fft.fftshift, array),
        ifftshift=lambda array: wrapped(np.fft.ifftshift, array),
    )
    return module


def _transform(source, target, *, back, scaled=True):
    found = (np.fft.ifftn if back else np.fft.fftn)(bare(source))
    target.inner[...] = found if scaled or not back else found * found.size


def _kernels():
    module = types.ModuleType("braggd.phasing.cuda")
    for name, found in vars(plain).items():
        if callable(found) and not name.startswith("_") and found.__module__ == plain.__name__:
            setattr(module, name, lambda *inputs, found=found: wrapped(found, *inputs))
    module.transform = _transform
    return module


def install(monkeypatch):
    """Put it in the place of a real one, whether there is one or not, and forget what is known of it."""
    monkeypatch.setitem(sys.modules, "cupy", _cupy())
    monkeypatch.setitem(sys.modules, "braggd.phasing.cuda", _kernels())
    monkeypatch.setattr(arrays, "_fault", lambda: "")
    monkeypatch.setattr(arrays, "_given_up", [])
    monkeypatch.setattr(arrays, "device_name", lambda device: device)
