// A browser that cannot read modules says so, instead of nothing; this file is one that it can read.
if (!("noModule" in HTMLScriptElement.prototype)) {
  document.getElementById("stage").textContent =
    "This browser is too old to measure. Update it: Chrome 91, Firefox 89 and Safari 16.4 are the first that can.";
}
