"""Draw the figure of a product as SVG and PNG."""

import arguments

from longrope.reports import products
from longrope.reports.figures.style import save

if __name__ == "__main__":
    paths = arguments.parse()
    figure = products.function(products.BY_NAME[paths.product].figure)(arguments.results(paths))
    for path in (paths.svg, paths.png):
        save(figure, path)
