/** The measurement, apart from the page: calls take no turns with drawing. */

import type { Job, News } from "./contract.js";
import { run } from "./measure.js";

self.onmessage = ({ data }: MessageEvent<Job>) => run(data, (news: News) => self.postMessage(news));
