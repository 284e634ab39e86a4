"""What libraries say at every start and nobody can do anything about."""

import logging
import warnings


def quiet_libraries() -> None:
    """Keeps such words off the terminal, in this process."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # That a faster kernel for 4-bit weights on a CPU is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # That a model is dequantised, which is what precision: nf4_dequantised asks for.
    logging.getLogger("transformers.integrations.bitsandbytes").setLevel(logging.ERROR)
