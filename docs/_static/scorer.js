// How the site's search ranks: pages for readers before the modules and the changelog.
// var: searchtools.js declares it so. Sphinx fills in nothing, so each number of its own is repeated.
var Scorer = {
  score: ([page, , , , score]) => score - (/^(api|changelog)/.test(page) ? 50 : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
