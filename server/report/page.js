"use strict";
const config = {
  responsive: true, displaylogo: false, showTips: false, displayModeBar: "hover",
  modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename: "wardround" },
};
const plots = [...document.querySelectorAll(".plot")];
for (const plot of plots) {
  const spec = JSON.parse(plot.nextElementSibling.textContent);
  Plotly.newPlot(plot, spec.data, spec.layout, config);
}
// paper is narrower than most windows, and what is closed cannot be opened on it; the plan is left to plan.toml
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  for (const plot of plots) Plotly.relayout(plot, { width: Math.min(plot.clientWidth, 680) });
});
addEventListener("afterprint", () => {
  for (const plot of plots) Plotly.relayout(plot, { width: null, autosize: true });
});
