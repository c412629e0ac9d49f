// All strings of one language, in one file that is fetched when the language is spoken. The platform's own words are English: `codes`
// says in Chinese what its codes mean.
import codes from "@/i18n/codes.zh.json";
import { gathered } from "@/i18n/gather";
import shared from "@/i18n/zh.json";

export default gathered({ ...shared, codes }, import.meta.glob("../screens/*/zh.json", { eager: true, import: "default" }));
