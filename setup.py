"""The native kernels: C++17, built once for each instruction set, loaded by ctypes at run time. Recurrent cells have one
library, on x86-64 another beside it whose products are in bfloat16, and sketches a third.

Everything else about the package is in pyproject.toml. Without a compiler the package installs all the same.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PACKAGE = Path("src/gyrostat")
FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-ffp-contract=fast"]  # a product and a sum are one rounding on every machine that can
LEVELS = {"v2": ["-march=x86-64-v2", "-O2"], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}
X86 = platform.machine() in ("x86_64", "AMD64")
BUILDS = [
    (folder, source, level, flags)
    for folder, source in (("recurrent/kernels", "native.cpp"), ("sketch", "*.cpp"))
    for level, flags in (LEVELS if X86 else {"generic": []}).items()
]
if X86:
    wide = [*LEVELS["v4"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
    BUILDS += [("recurrent/kernels", "native_bf16.cpp", "bf16", wide)]


class BuildKernels(build_ext):
    """Plain shared libraries: no Python in their names, in their headers or in what they link."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or len(self.extensions)

    def get_ext_filename(self, fullname):
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext):
        # one folder for each, because the same file is compiled several times at once
        objects = self.compiler.compile(
            ext.sources,
            output_dir=f"{self.build_temp}/{ext.name}",
            extra_postargs=ext.extra_compile_args,
            depends=ext.depends,
        )
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, target, libraries=ext.libraries, target_lang="c++")


class AnyPython(bdist_wheel):
    """A wheel for a platform, not for a Python version or a torch version."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[
        Extension(
            f"gyrostat.{folder.replace('/', '.')}._native_{level}",
            sorted(str(p) for p in (PACKAGE / folder / "csrc").glob(source)),
            depends=sorted(str(p) for at in (folder, "_native") for p in (PACKAGE / at).glob("**/*.h")),
            extra_compile_args=[*FLAGS, *flags],
            libraries=["dl", "pthread"] if platform.system() == "Linux" else [],
            language="c++",
            optional=True,
        )
        for folder, source, level, flags in BUILDS
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
)
