"""The Mandelbrot set: goroutines paint the rows of one picture in shared memory, and the program saves it.

    python docs/examples/mandelbrot.py [OUT.ppm [WIDTH HEIGHT]]

The picture is a SharedArray of bytes, height x width x red, green and blue. Rows near the middle take longer than those
at the edge, so each row is a goroutine of its own: whichever core is done takes the next. Plain Python, no NumPy; a
PPM file is the picture's bytes behind three lines of text, and any viewer shows it.

Source: gopl.io, ch3/mandelbrot; its exercise 8.5 asks for the goroutines.
"""

import sys

from mproc_go import Group, SharedArray, run

LEFT, RIGHT, BOTTOM, TOP = -2.0, 0.6, -1.3, 1.3
ITERATIONS = 100


def color(c: complex) -> tuple[int, int, int]:
    """Black for what never leaves; else a shade by how soon it does."""
    z = 0j
    for n in range(ITERATIONS):
        z = z * z + c
        if z.real * z.real + z.imag * z.imag > 4.0:
            return 255 - n * 255 // ITERATIONS, n * 7 % 256, n * 13 % 256
    return 0, 0, 0


def paint(picture: SharedArray, row: int) -> None:
    """One row, in place."""
    height, width, _ = picture.shape
    y = TOP - (TOP - BOTTOM) * row / height
    line = picture[row]  # a view: what is written to it is in the picture
    for column in range(width):
        x = LEFT + (RIGHT - LEFT) * column / width
        line[column, 0], line[column, 1], line[column, 2] = color(complex(x, y))


def main(out: str, width: int, height: int) -> None:
    picture = SharedArray((height, width, 3), "B")
    with Group() as rows:
        for row in range(height):
            rows.go(paint, picture, row)
    with open(out, "wb") as file:
        file.write(b"P6\n%d %d\n255\n" % (width, height))
        file.write(picture.memoryview())
    inside = sum(1 for y in range(height) for x in range(width) if picture[y, x, 0] == 0)
    print(f"{out}: {width} x {height}, {100 * inside // (width * height)} % of it never leave")


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "mandelbrot.ppm"
    width, height = map(int, sys.argv[2:4]) if len(sys.argv) > 3 else (640, 640)
    run(main, name, width, height)
