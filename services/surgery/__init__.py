"""Surgery: numerically right weights, at the speed of the disk, in bounded memory."""
