"""Steps in few shapes, for devices that compile each shape anew: padded, and known beforehand."""
