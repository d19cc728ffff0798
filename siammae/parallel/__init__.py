"""Work shared by processes of this machine; those that torchrun started are in ``siammae.distributed``."""
