"""``gyrostat cite``: the reference of a method."""

from __future__ import annotations

_PAPERS = {
    "lipschitz": ("erichson2021lipschitz", "Lipschitz Recurrent Neural Networks", "Erichson and Azencot and Queiruga and Hodgkinson and Mahoney", "2021", "2006.12070"),
    "noisy": ("lim2021noisy", "Noisy Recurrent Neural Networks", "Lim and Erichson and Hodgkinson and Mahoney", "2021", "2102.04877"),
    "lem": ("rusch2022lem", "Long Expressive Memory for Sequence Modeling", "Rusch and Mishra and Erichson and Mahoney", "2022", "2110.04744"),
    "vector-field": ("azencot2021differential", "A Differential Geometry Perspective on Orthogonal Recurrent Models", "Azencot and Erichson and Ben-Chen and Mahoney", "2021", "2102.09589"),
    "continuous-depth": ("queiruga2020continuous", "Continuous-in-Depth Neural Networks", "Queiruga and Erichson and Taylor and Mahoney", "2020", "2008.02389"),
    "basis-compression": ("queiruga2021stateful", "Stateful ODE-Nets using Basis Function Expansions", "Queiruga and Erichson and Hodgkinson and Mahoney", "2021", "2106.10820"),
    "antisymmetric": ("chang2019antisymmetric", "AntisymmetricRNN: A Dynamical System View on Recurrent Neural Networks", "Chang and Chen and Haber and Chi", "2019", "1902.09689"),
    "sketch-bootstrap": ("lopes2020error", "Error Estimation for Sketched SVD via the Bootstrap", "Lopes and Erichson and Mahoney", "2020", "2003.04937"),
}  # fmt: skip


def cite(name: str, /) -> int:
    """Print the BibTeX entry of a method's paper.

    Example: gyrostat cite lem
    Takes no time.

    Args:
        name: lipschitz, noisy, lem, vector-field, antisymmetric, continuous-depth, basis-compression, sketch-bootstrap.
    """
    from .._checks import nearest
    from .._errors import ArgumentError

    key = name.replace("_", "-")
    if key not in _PAPERS:
        raise ArgumentError(f"no reference for {name!r}{nearest(key, _PAPERS)}; there are {', '.join(_PAPERS)}")
    label, title, authors, year, number = _PAPERS[key]
    print(f"@article{{{label},\n  title = {{{title}}},\n  author = {{{authors}}},\n  year = {{{year}}},")
    print(f"  eprint = {{{number}}},\n  archivePrefix = {{arXiv}}\n}}")
    return 0
