"""Write the table of a product as CSV and, under its note, as Markdown."""

import arguments

from longrope.reports import pivots, products
from longrope.reports.tables import write_table

if __name__ == "__main__":
    paths = arguments.parse()
    product, results = products.BY_NAME[paths.product], arguments.results(paths)
    table = products.function(product.table)(results)
    note = products.function(product.note)(product, results, table)
    text = pivots.markdown(product, table)
    write_table(table, paths.csv, paths.markdown, note=note, text=text)
