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
    "orthogonal": ("lezcano2019cheap", "Cheap Orthogonal Constraints in Neural Networks: A Simple Parametrization of the Orthogonal and Unitary Group", "Lezcano-Casado and Martínez-Rubio", "2019", "1901.08428"),
    "mixup": ("lim2022noisy", "Noisy Feature Mixup", "Lim and Erichson and Utrera and Xu and Mahoney", "2022", "2110.02180"),
    "transfer": ("utrera2021adversarially", "Adversarially-Trained Deep Nets Transfer Better: Illustration on Image Classification", "Utrera and Kravitz and Erichson and Khanna and Mahoney", "2021", "2007.05869"),
    "audit": ("erichson2021noise", "Noise-Response Analysis of Deep Neural Networks Quantifies Robustness and Fingerprints Structural Malware", "Erichson and Taylor and Wu and Mahoney", "2021", "2008.00123"),
}  # fmt: skip


def cite(name: str | None = None, /) -> int:
    """Print the BibTeX entry of a method's paper; without a name, list the methods.

    Example: gyrostat cite lem
    Takes no time.

    Args:
        name: A method of the list.
    """
    from .._checks import nearest
    from .._errors import ArgumentError

    if name is None:
        for key, (_, title, _, year, number) in _PAPERS.items():
            print(f"{key:18} {title}, {year}, arXiv:{number}")
        return 0
    key = name.replace("_", "-")
    if key not in _PAPERS:
        raise ArgumentError(f"no reference for {name!r}{nearest(key, _PAPERS)}; there are {', '.join(_PAPERS)}")
    label, title, authors, year, number = _PAPERS[key]
    print(f"@article{{{label},\n  title = {{{title}}},\n  author = {{{authors}}},\n  year = {{{year}}},")
    print(f"  eprint = {{{number}}},\n  archivePrefix = {{arXiv}}\n}}")
    return 0
