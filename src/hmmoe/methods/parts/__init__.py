"""The modules that methods build of. They import torch, the methods themselves do not until one is built."""
