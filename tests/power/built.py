"""What harnesses run and preload: is it there?"""
import os


def need(who, build, *names):
    """Ends with one line unless all of these are there: in the build's folder, or, with a whole path, where that says."""
    build = os.path.abspath(build)
    missing = [path for path in (os.path.join(build, name) for name in names) if not os.path.exists(path)]
    if not missing:
        return
    variant, how = os.path.basename(build), ""
    if any(path.startswith(build + "/") for path in missing):
        how = f"; `make {'' if variant == 'release' else f'VARIANT={variant} '}tools` builds what is run here"
    raise SystemExit(f"{who}: missing: {', '.join(os.path.relpath(path) for path in missing)}{how}")
