// What is known of a wait, in words. The proxy says it in comments of the stream:
// "queued, position 3, about 20 s".
import { durationOf } from "./durations.js";

const POSITION = /, position (\d+)/;
const SECONDS = /, about (\d+) s/;
const WORDS = {
  queued: ({ place, at }) => (place ? `${place} in line${at}` : `In line${at}`),
  generating: ({ at }) => `Being written${at}`,
  "in line": ({ place, at }) => (place ? `${place} in line${at}` : `In line${at}`),
  "held back": ({ place }) => (place ? `${place} in this proxy's own line` : "In this proxy's own line"),
  waking: ({ server }) => `Booting ${server || "the server"}`,
  "horde unreachable": () => "The horde does not answer; trying again",
};

// 1st, 2nd, 3rd, 4th, 11th, 21st.
export function ordinal(number) {
  const isTeen = Math.floor(number % 100 / 10) === 1;
  return `${number}${(!isTeen && ["th", "st", "nd", "rd"][number % 10]) || "th"}`;
}

// `passed` are the seconds since the comment came, `server` is the endpoint's name or "".
export function waitingWords(comment, server = "", passed = 0) {
  const state = comment.split(",")[0].trim();
  const place = comment.match(POSITION) && ordinal(Number(comment.match(POSITION)[1]));
  const words = WORDS[state];
  const text = words ? words({ place, server, at: server ? ` at ${server}` : "" }) : comment;
  const seconds = Number(comment.match(SECONDS)?.[1] || 0) - Math.floor(passed);
  return words && seconds > 0 ? `${text}, about ${durationOf(seconds)}` : text;
}
