"""Pictures: edge bands on images, students compared image by image, search strategies compared."""
