// A duration of whole seconds, as tables.py writes it: 42 s, 3 min 20 s, 2 h 5 min.
export function durationOf(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const [large, small, units] = seconds < 3600
    ? [Math.floor(seconds / 60), seconds % 60, ["min", "s"]]
    : [Math.floor(seconds / 3600), Math.floor(seconds % 3600 / 60), ["h", "min"]];
  return small ? `${large} ${units[0]} ${small} ${units[1]}` : `${large} ${units[0]}`;
}
